//! Why a new pool could not be connected.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use spdk::Errno;
use spdk::nvme::rdma_reach;
use spdk::rpc::RpcError;
use spdk::thread::{AppCell, send_to_app};

use super::creations::PoolCreation;
use crate::params::{PoolParams, Trtype};

/// How long it may take.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// The creations that wait for a diagnosis, and the last number given to one.
type Diagnosed = (u64, Vec<(u64, Rc<PoolCreation>)>);

static DIAGNOSED: AppCell<Diagnosed> = AppCell::new(|| (0, Vec::new()));

/// Finds out, off the reactors, whether anything answers at the address, so that the operator learns whether the
/// address or the name is wrong.
pub(super) fn diagnose(creation: Rc<PoolCreation>, errno: Errno) {
    let params = creation.params.clone();
    if let Some(said) = params.foreign_hostaddr() {
        return creation.finish(Err(failure(&params, errno, &said)));
    }
    let address = params.traddr.parse::<IpAddr>().ok().zip(params.trsvcid.parse::<u16>().ok());
    let Some((ip, port)) = address else {
        return creation.finish(Err(failure(&params, errno, "no connection; is the address right?")));
    };
    let id = DIAGNOSED.with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        waiting.0 += 1;
        let id = waiting.0;
        waiting.1.push((id, creation));
        id
    });
    let probe = move || {
        let said = outcome(&params, errno, reach(params.trtype, ip, port));
        if let Err(error) = send_to_app(move || told(id, errno, &said)) {
            log::error!("a diagnosis could not be told: {error}");
        }
    };
    if std::thread::Builder::new().name("courier_diagnose".to_owned()).spawn(probe).is_err() {
        told(id, errno, "no connection");
    }
}

/// Why there is no way to an address.
enum UnreachableReason {
    NoDevice,
    Other(String),
}

/// Asks whether anything answers there.
fn reach(trtype: Trtype, ip: IpAddr, port: u16) -> Result<(), UnreachableReason> {
    match trtype {
        Trtype::Tcp => TcpStream::connect_timeout(&SocketAddr::new(ip, port), DIAGNOSIS)
            .map(drop)
            .map_err(|error| UnreachableReason::Other(error.to_string())),
        Trtype::Rdma => rdma_reach(ip, port, DIAGNOSIS).map_err(|error| match error {
            Errno::NODEV => UnreachableReason::NoDevice,
            error => UnreachableReason::Other(error.to_string()),
        }),
    }
}

/// Returns what is told of it.
fn outcome(params: &PoolParams, errno: Errno, reached: Result<(), UnreachableReason>) -> String {
    match reached {
        Ok(()) if errno == Errno::TIMEDOUT => {
            "something answers there, but did not answer all that a controller is asked \
             at first; is it a target of NVMe, and is connect_timeout_ms long enough for it?"
                .to_owned()
        }
        Ok(()) => {
            let from = params.hostaddr.as_ref().map_or(String::new(), |from| format!(", also from hostaddr {from}"));
            format!(
                "something answers there, but not as that subsystem; is subnqn right, and is this host allowed{from}?"
            )
        }
        Err(UnreachableReason::NoDevice) => "no RDMA device of this machine leads there".to_owned(),
        Err(UnreachableReason::Other(error)) => {
            format!("nothing answers there: {error}; is the address right, and does the target listen?")
        }
    }
}

fn told(id: u64, errno: Errno, said: &str) {
    let found = DIAGNOSED.with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        let at = waiting.1.iter().position(|(entry, _)| *entry == id)?;
        Some(waiting.1.swap_remove(at).1)
    });
    if let Some(creation) = found {
        creation.finish(Err(failure(&creation.params, errno, said)));
    }
}

fn failure(params: &PoolParams, errno: Errno, said: &str) -> RpcError {
    let outcome = if errno == Errno::TIMEDOUT {
        format!("no connection within {} ms", params.connect_timeout_ms)
    } else {
        "cannot connect".to_owned()
    };
    let PoolParams { name, subnqn, .. } = params;
    let text = format!("pool '{name}': {outcome} to subsystem {subnqn} at {}: {said}", params.target());
    RpcError::failed(errno, text)
}
