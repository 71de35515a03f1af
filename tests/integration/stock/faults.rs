//! The faults, and what stands before a bdev that meets them.

use std::time::Duration;

use nvme_spec::log::AnaState;
use nvme_spec::tcp::PduType;
use nvme_spec::{IoOpcode, Status, StatusCodeType};
use pool_faults::{Arrival, Cut, Do, Namespace, On, Options, Relay, ScriptedTarget, Which};

use crate::support::pool::{Backing, Pool};
use crate::support::secs;

/// The namespace's UUID, and that of a stranger.
const OWN: u8 = 0x11;
const STRANGER: u8 = 0x22;
/// Blocks of 512 bytes.
const BLOCKS: u64 = 2_048;

/// A target, and what is between it and its host.
pub(super) struct Scene {
    pub(super) port: u16,
    target: Option<ScriptedTarget>,
    relay: Option<Relay>,
    pool: Option<Pool>,
    files: Vec<Backing>,
    own: Option<Namespace>,
    /// What became known of the fault.
    pub(super) remark: Option<String>,
}

impl Scene {
    fn scripted_with(options: Options) -> Self {
        let target = ScriptedTarget::with(options, [(1, Namespace::new(512, BLOCKS, OWN))]);
        let relay = Relay::to(target.address());
        let port = relay.port();
        Self { port, target: Some(target), relay: Some(relay), pool: None, files: Vec::new(), own: None, remark: None }
    }

    /// Returns a scripted target behind a relay.
    fn scripted() -> Self {
        Self::scripted_with(Options::default())
    }

    fn with_ana() -> Self {
        Self::scripted_with(Options { ana: true, ..Options::default() })
    }

    /// Returns an `spdk_tgt`, whose namespace is a file.
    fn real() -> Self {
        let files = vec![Backing::new(64 << 20, 512)];
        let pool = Pool::files(&files);
        Self { port: pool.port, target: None, relay: None, pool: Some(pool), files, own: None, remark: None }
    }

    /// Returns a scripted target behind a relay that refuses.
    fn away() -> Self {
        let scene = Self::scripted();
        scene.relay().arrivals(Arrival::Refuse);
        scene
    }

    fn target(&self) -> &ScriptedTarget {
        self.target.as_ref().expect("the target is scripted")
    }

    fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("there is a relay")
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("the target is an spdk_tgt")
    }

    fn cut(&self) {
        self.relay().cut(Which::All, Cut::Reset);
    }

    fn arrivals(&self, arrival: Arrival) {
        self.relay().arrivals(arrival);
    }

    /// Commands on I/O queues are answered with a status: `times` of them, or all.
    fn answer(&self, on: On, status: Status, times: Option<u32>) {
        let on = if let Some(times) = times { on.times(times) } else { on };
        self.target().on(on, Do::Status(status));
    }

    /// Does something while the target carries out nothing. It then goes on with what came, if that is wanted.
    fn meanwhile(&mut self, go_on: bool, act: impl FnOnce(&mut Self)) {
        self.target().on(On::any_io(), Do::Hold);
        act(self);
        self.target().behave();
        if go_on {
            self.target().release();
        }
    }

    fn take_namespace_away(&mut self) {
        self.meanwhile(true, |scene| {
            scene.own = scene.target().namespace(1);
            scene.target().remove_namespace(1);
        });
        self.target().namespaces_changed();
    }

    fn bring_namespace_back(&mut self) {
        let own = self.own.take().expect("it was taken away");
        self.target().set_namespace(1, own);
        self.target().namespaces_changed();
    }

    fn grow(&mut self) {
        self.meanwhile(true, |scene| {
            let mut namespace = scene.target().namespace(1).expect("it is there");
            namespace.data.resize(2 * namespace.data.len(), 0);
            scene.target().set_namespace(1, namespace);
        });
        self.target().namespaces_changed();
    }

    fn replace_by_stranger(&mut self) {
        self.meanwhile(false, |scene| {
            scene.own = scene.target().namespace(1);
            scene.arrivals(Arrival::Refuse);
            scene.cut();
            assert!(scene.target().wait(secs(5), |target| target.open_connections().is_empty()), "they were cut");
            scene.target().set_namespace(1, Namespace::new(512, BLOCKS, STRANGER));
        });
        self.arrivals(Arrival::Pass);
    }

    fn send_stranger_away(&mut self) {
        let stranger = self.target().namespace(1).expect("it is there");
        if stranger.data.iter().any(|&byte| byte != 0) {
            self.remark = Some("wrote to the stranger".to_owned());
        }
        self.bring_namespace_back();
    }
}

/// When a fault is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// While the process starts.
    AtStart,
    /// While there is I/O.
    Once,
    /// And again when the pool is deleted.
    AtDeletionToo,
}

/// A fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) scene: fn() -> Scene,
    pub(super) begin: fn(&mut Scene),
    /// How long it lasts.
    pub(super) lasts: Duration,
    pub(super) end: fn(&mut Scene),
    pub(super) keep_alive_ms: u32,
    pub(super) digests: bool,
    pub(super) when: When,
    /// How much later than stock Courier may be well again.
    pub(super) later: Duration,
    /// It is among the few of a short run.
    pub(super) short: bool,
}

/// How long it takes until a command has met what the target does to the next one.
const SOON: Duration = Duration::from_millis(100);

/// What most have in common.
const USUAL: Fault = Fault {
    name: "",
    scene: Scene::scripted,
    begin: |_| {},
    lasts: Duration::ZERO,
    end: |_| {},
    keep_alive_ms: 2_000,
    digests: false,
    when: When::Once,
    later: Duration::from_millis(1_500),
    short: false,
};

/// Returns all of them.
pub(super) fn all() -> Vec<Fault> {
    let mut faults = of_connections();
    faults.extend(of_silence());
    faults.extend(of_processes());
    faults.extend(of_namespaces());
    faults.extend(of_pdus());
    faults.extend(of_answers());
    faults
}

fn of_connections() -> Vec<Fault> {
    vec![
        Fault { name: "connections cut", begin: |scene| scene.cut(), short: true, ..USUAL },
        Fault {
            name: "connections cut, then refused for 1 s",
            begin: |scene| {
                scene.arrivals(Arrival::Refuse);
                scene.cut();
            },
            lasts: secs(1),
            end: |scene| scene.arrivals(Arrival::Pass),
            short: true,
            ..USUAL
        },
        Fault {
            name: "connections cut, then refused for 3 s",
            begin: |scene| {
                scene.arrivals(Arrival::Refuse);
                scene.cut();
            },
            lasts: secs(3),
            end: |scene| scene.arrivals(Arrival::Pass),
            when: When::AtDeletionToo,
            ..USUAL
        },
        Fault {
            name: "connections cut, then accepted and never answered for 3 s",
            begin: |scene| {
                scene.arrivals(Arrival::Silence);
                scene.cut();
            },
            lasts: secs(3),
            end: |scene| scene.arrivals(Arrival::Pass),
            when: When::AtDeletionToo,
            later: secs(3),
            ..USUAL
        },
        Fault {
            name: "connections cut, then SYNs lost for 3 s",
            begin: |scene| {
                scene.arrivals(Arrival::Drop);
                scene.cut();
            },
            lasts: secs(3),
            end: |scene| scene.arrivals(Arrival::Pass),
            when: When::AtDeletionToo,
            later: secs(3),
            ..USUAL
        },
        Fault {
            name: "connections cut, and the next one of an I/O queue never answered",
            begin: |scene| {
                scene.target().on(On::connect_io().once(), Do::Silence);
                scene.cut();
            },
            later: secs(3),
            ..USUAL
        },
        Fault {
            name: "away at the start, there after 2 s",
            scene: Scene::away,
            lasts: secs(2),
            end: |scene| scene.arrivals(Arrival::Pass),
            when: When::AtStart,
            ..USUAL
        },
    ]
}

fn of_silence() -> Vec<Fault> {
    let silence = |name, lasts, later| Fault {
        name,
        begin: |scene| scene.relay().stall(),
        lasts,
        end: |scene| scene.relay().release(),
        when: When::AtDeletionToo,
        later,
        ..USUAL
    };
    vec![
        silence("silence for 1 s, keep-alive time 2 s", secs(1), secs(1)),
        silence("silence for 3.5 s, keep-alive time 2 s", Duration::from_millis(3_500), secs(6)),
        silence("silence for 10 s, keep-alive time 2 s", secs(10), secs(6)),
        Fault {
            name: "one read is never answered, others are",
            begin: |scene| scene.target().on(On::io(IoOpcode::READ).once(), Do::Nothing),
            lasts: SOON,
            ..USUAL
        },
    ]
}

fn of_processes() -> Vec<Fault> {
    let stopped = |name, lasts, later| Fault {
        name,
        scene: Scene::real,
        begin: |scene| scene.pool().app.process.suspend(),
        lasts,
        end: |scene| scene.pool().app.process.resume(),
        keep_alive_ms: 5_000,
        when: When::AtDeletionToo,
        later,
        ..USUAL
    };
    vec![
        stopped("target stopped (SIGSTOP) for 2 s, keep-alive time 5 s", secs(2), secs(1)),
        stopped("target stopped (SIGSTOP) for 15 s, keep-alive time 5 s", secs(15), secs(11)),
        Fault {
            name: "target killed, and started again after 2 s",
            scene: Scene::real,
            begin: |scene| scene.pool().kill(),
            lasts: secs(2),
            end: |scene| {
                let files = scene.files.clone();
                scene.pool.as_mut().expect("there is one").start_again(&files);
            },
            ..USUAL
        },
    ]
}

fn of_namespaces() -> Vec<Fault> {
    vec![
        Fault {
            name: "connections cut, namespace 2 s later than its listener",
            begin: |scene| {
                scene.take_namespace_away();
                scene.cut();
            },
            lasts: secs(2),
            end: Scene::bring_namespace_back,
            ..USUAL
        },
        Fault {
            name: "namespace removed, and added again after 2 s",
            begin: Scene::take_namespace_away,
            lasts: secs(2),
            end: Scene::bring_namespace_back,
            ..USUAL
        },
        Fault { name: "namespace grows", begin: Scene::grow, ..USUAL },
        Fault {
            name: "another UUID under the NSID for 2 s",
            begin: Scene::replace_by_stranger,
            lasts: secs(2),
            end: Scene::send_stranger_away,
            ..USUAL
        },
        ana_inaccessible("ANA inaccessible for 0.5 s, then optimized", Duration::from_millis(500), true),
        ana_inaccessible("ANA inaccessible for 3 s, then optimized", secs(3), false),
    ]
}

fn ana_inaccessible(name: &'static str, lasts: Duration, short: bool) -> Fault {
    Fault {
        name,
        scene: Scene::with_ana,
        begin: |scene| {
            scene.target().set_ana(1, AnaState::INACCESSIBLE);
            scene.target().ana_changed();
        },
        lasts,
        end: |scene| {
            scene.target().set_ana(1, AnaState::OPTIMIZED);
            scene.target().ana_changed();
        },
        short,
        ..USUAL
    }
}

fn of_pdus() -> Vec<Fault> {
    /// Where the data of a PDU with a header digest begins, or comes later.
    const IN_DATA: usize = 64;
    vec![
        Fault {
            name: "a wrong data digest",
            begin: |scene| scene.target().on(On::io(IoOpcode::READ).once(), Do::corrupt(IN_DATA)),
            lasts: SOON,
            digests: true,
            ..USUAL
        },
        Fault {
            name: "a wrong header digest",
            begin: |scene| scene.target().on(On::io(IoOpcode::READ).once(), Do::corrupt(10)),
            lasts: SOON,
            digests: true,
            ..USUAL
        },
        Fault {
            name: "a data PDU beyond the end of the I/O",
            begin: |scene| scene.target().on(On::io(IoOpcode::READ).once(), Do::wrong_data_length(1 << 20)),
            lasts: SOON,
            later: secs(4),
            ..USUAL
        },
        Fault {
            name: "a PDU of a type that is not there",
            begin: |scene| {
                scene.target().on(On::io(IoOpcode::WRITE).once(), Do::wrong_kind(PduType(0x42)));
            },
            lasts: SOON,
            later: secs(4),
            ..USUAL
        },
        Fault {
            name: "an answer to a command that was not sent",
            begin: |scene| scene.target().on(On::io(IoOpcode::READ).once(), Do::WrongCid(0x7fff)),
            lasts: SOON,
            later: secs(4),
            ..USUAL
        },
    ]
}

fn of_answers() -> Vec<Fault> {
    vec![
        Fault {
            name: "Namespace Not Ready for 2 s",
            begin: |scene| scene.answer(On::any_io(), Status::NAMESPACE_NOT_READY, None),
            lasts: secs(2),
            end: |scene| scene.target().behave(),
            ..USUAL
        },
        Fault {
            name: "Transient Transport Error, six times",
            begin: |scene| scene.answer(On::any_io(), Status::TRANSIENT_TRANSPORT_ERROR, Some(6)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "Command Interrupted, six times",
            begin: |scene| scene.answer(On::any_io(), Status::COMMAND_INTERRUPTED, Some(6)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "Internal Error without Do Not Retry, twice",
            begin: |scene| scene.answer(On::any_io(), Status::INTERNAL_ERROR, Some(2)),
            lasts: SOON,
            short: true,
            ..USUAL
        },
        Fault {
            name: "Data Transfer Error without Do Not Retry, once",
            begin: |scene| scene.answer(On::any_io(), Status::DATA_TRANSFER_ERROR, Some(1)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "Aborted due to SQ Deletion without Do Not Retry, once",
            begin: |scene| scene.answer(On::any_io(), Status::ABORTED_SQ_DELETION, Some(1)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "Unrecovered Read Error without Do Not Retry, once",
            begin: |scene| scene.answer(On::io(IoOpcode::READ), Status::UNRECOVERED_READ_ERROR, Some(1)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "Write Fault without Do Not Retry, once",
            begin: |scene| scene.answer(On::io(IoOpcode::WRITE), Status::WRITE_FAULT, Some(1)),
            lasts: SOON,
            ..USUAL
        },
        Fault {
            name: "a vendor specific status without Do Not Retry, once",
            begin: |scene| scene.answer(On::any_io(), Status::new(StatusCodeType::VENDOR_SPECIFIC, 1), Some(1)),
            lasts: SOON,
            ..USUAL
        },
    ]
}
