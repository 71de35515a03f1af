//! The safe layer within an SPDK application that runs: threads, pollers, I/O devices, RPC, DMA memory, connecting.

mod harness;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serial_test::serial;
use spdk::Errno;
use spdk::dma::DmaBuf;
use spdk::io_device::{Advance, ChannelFactory, IoDevice};
use spdk::nvme::{AddressFamily, Connect, ConnectFailed, CtrlrOptions, TransportId, TransportType};
use spdk::poller::{Poll, Poller};
use spdk::rpc::{Method, Request, RpcError};
use spdk::thread::{AppCell, OwnedThread, defer, on_app_thread, on_spdk_thread, send_to_app};

use harness::{PATIENCE, RpcFailure, TestApp, from_app, on_app, wait_until};

fn app() -> &'static TestApp {
    harness::start("0x1", || {
        spdk::rpc::register::<Double>();
        spdk::rpc::register::<Forgetful>();
        spdk::rpc::register::<Echo>();
    })
}

/// Doubles a number.
struct Double;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DoubleParams {
    number: u32,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Serialize)]
struct Doubled {
    doubled: u32,
    text: Option<String>,
}

impl Method for Double {
    const NAME: &'static CStr = c"test_double";
    type Params = DoubleParams;

    fn call(params: DoubleParams, request: Request) {
        let doubled = params.number.checked_mul(2).map(|doubled| Doubled { doubled, text: params.text });
        request.answer(doubled.ok_or_else(|| RpcError::failed(Errno::INVAL, "too large to be doubled")));
    }
}

/// Gives back its parameters, of which it needs none.
struct Echo;

impl Method for Echo {
    const NAME: &'static CStr = c"test_echo";
    type Params = serde_json::Map<String, Value>;

    fn call(params: Self::Params, request: Request) {
        request.reply(&params);
    }
}

/// Gives no answer.
struct Forgetful;

impl Method for Forgetful {
    const NAME: &'static CStr = c"test_forgetful";
    type Params = serde_json::Map<String, Value>;

    fn call(_: Self::Params, request: Request) {
        drop(request);
    }
}

fn failure(method: &str, params: Value) -> RpcFailure {
    app().rpc(method, params).expect_err("the call fails")
}

#[test]
#[serial]
fn a_good_rpc_is_answered_with_its_result() {
    let text = "line\n\"quoted\" \u{1f980} \\";
    let answer = app().rpc("test_double", json!({ "number": 21, "text": text }));
    assert_eq!(answer, Ok(json!({ "doubled": 42, "text": text })));
}

#[test]
#[serial]
fn an_rpc_that_fails_is_answered_with_its_number_and_sentence() {
    let error = failure("test_double", json!({ "number": u32::MAX }));
    assert_eq!(error, RpcFailure { code: -22, message: "too large to be doubled".to_owned() });
}

#[test]
#[serial]
fn bad_parameters_are_refused_with_the_name_of_the_one_that_is_wrong() {
    for (params, said) in [
        (Value::Null, "number"),
        (json!({}), "number"),
        (json!({ "text": "a" }), "number"),
        (json!({ "number": "x" }), "`number`"),
        (json!({ "number": -1 }), "`number`"),
        (json!({ "number": 4_294_967_296_u64 }), "`number`"),
        (json!({ "number": 1.5 }), "`number`"),
        (json!({ "number": 1, "text": 7 }), "`text`"),
        (json!({ "number": 1, "nmber": 2 }), "nmber"),
        (json!([1]), "object"),
    ] {
        let error = failure("test_double", params.clone());
        assert_eq!(error.code, -32602, "{params}: {error:?}");
        assert!(error.message.contains(said), "{params}: {error:?}");
    }
}

#[test]
#[serial]
fn parameters_that_cannot_be_read_are_refused_and_not_taken_for_none() {
    let nested = format!("{{ \"a\": {}1{} }}", "[".repeat(62), "]".repeat(62));
    for (params, said) in [
        (r#"{ "a": 1e999 }"#, "parameter `a`: 1e999 is a number that is too large"),
        (r#"{ "a": { "b": -1e999 } }"#, "parameter `a`: parameter `b`: -1e999"),
        (r#"{ "a": 1, "b": 2, "a": 3 }"#, "parameter `a` is given twice"),
    ] {
        // A method to which no parameters are as good as any.
        let error = app().rpc_text("test_echo", params).expect_err(params);
        assert_eq!(error.code, -32602, "{params}: {error:?}");
        assert!(error.message.contains(said), "{params}: {error:?}");
    }
    assert!(app().rpc_text("test_echo", &nested).is_ok(), "as deep as SPDK's own parser goes");
    assert_eq!(app().rpc_text("test_echo", "{}"), Ok(json!({})));
}

#[test]
#[serial]
fn a_request_that_is_dropped_is_answered_as_an_internal_error() {
    assert_eq!(failure("test_forgetful", Value::Null).code, -32603);
}

#[test]
#[serial]
fn what_belongs_to_spdk_threads_is_refused_elsewhere() {
    app();
    assert!(!on_spdk_thread() && !on_app_thread());
    assert_eq!(Poller::register("test", Duration::ZERO, || Poll::Idle).err(), Some(Errno::PERM));
    assert_eq!(IoDevice::register("test", Numbers::default()).err(), Some(Errno::PERM));
    assert_eq!(defer(|| ()), Err(Errno::NXIO));
    assert!(on_app(|| on_spdk_thread() && on_app_thread()));
}

static CELL: AppCell<u32> = AppCell::new(|| 7);

#[test]
#[serial]
fn an_app_cell_gives_its_value_to_the_application_thread_only() {
    app();
    assert_eq!(on_app(|| CELL.with(|cell| cell.replace(8))), 7);
    assert_eq!(on_app(|| CELL.with(|cell| cell.replace(7))), 8);
    let elsewhere = thread::spawn(|| CELL.with(|cell| *cell.borrow())).join();
    assert!(elsewhere.is_err(), "off SPDK's threads");
    let (tell, told) = channel();
    let thread = OwnedThread::on_core("other", 0).expect("a thread");
    let ask = move || {
        let outcome = std::panic::catch_unwind(|| CELL.with(|cell| *cell.borrow()));
        tell.send(outcome.is_err()).expect("somebody waits");
    };
    thread.send(ask).expect("the thread takes messages");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "on another SPDK thread");
}

#[test]
#[serial]
fn messages_come_in_order_and_run_where_they_were_sent() {
    app();
    let (tell, told) = channel();
    let thread = OwnedThread::on_core("ordered", 0).expect("a thread");
    for number in 0..1_000 {
        let tell = tell.clone();
        let message = move || tell.send((number, on_spdk_thread(), on_app_thread())).expect("somebody waits");
        thread.send(message).expect("the thread takes messages");
    }
    for number in 0..1_000 {
        assert_eq!(told.recv_timeout(PATIENCE), Ok((number, true, false)));
    }
}

#[test]
#[serial]
fn a_message_is_dropped_on_the_thread_that_it_was_sent_to() {
    struct Tells(std::sync::mpsc::Sender<bool>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.send(on_app_thread()).expect("somebody waits");
        }
    }
    app();
    let (tell, told) = channel();
    let tells = Tells(tell);
    send_to_app(move || drop(tells)).expect("the application runs");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
}

#[test]
#[serial]
fn a_deferred_call_runs_after_the_message_that_deferred_it() {
    app();
    let order = from_app(|tell| {
        let order = Rc::new(RefCell::new(vec!["message"]));
        let later = Rc::clone(&order);
        defer(move || {
            later.borrow_mut().push("deferred");
            tell.send(later.take()).expect("somebody waits");
        })
        .expect("an SPDK thread");
        order.borrow_mut().push("end of message");
    });
    assert_eq!(order, ["message", "end of message", "deferred"]);
}

#[test]
#[serial]
fn a_poller_is_called_until_it_drops_itself_from_within_its_own_call() {
    app();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    from_app(move |tell| {
        let own = Rc::new(RefCell::new(None));
        let held = Rc::clone(&own);
        let poll = move || {
            let calls = counted.fetch_add(1, Ordering::Relaxed) + 1;
            if calls == 5 {
                held.take();
                tell.send(()).expect("somebody waits");
            }
            // What the body holds is still there after the poller was dropped.
            if held.borrow().is_none() { Poll::Busy } else { Poll::Idle }
        };
        own.replace(Some(Poller::register("test", Duration::ZERO, poll).expect("a poller")));
    });
    wait_until("the body is dropped", || Arc::strong_count(&calls) == 1);
    assert_eq!(calls.load(Ordering::Relaxed), 5);
}

#[test]
#[serial]
fn a_poller_with_a_period_is_called_as_often_as_that() {
    app();
    let (calls, rounds) = from_app(|tell| {
        let (calls, rounds) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0_u64)));
        let counted = Rc::clone(&calls);
        let timed = Poller::register("timed", Duration::from_millis(5), move || {
            counted.set(counted.get() + 1);
            Poll::Busy
        });
        let held = Rc::new(RefCell::new(Some((timed.expect("a poller"), None::<Poller>))));
        let own = Rc::clone(&held);
        let (begin, counted) = (std::time::Instant::now(), Rc::clone(&rounds));
        let always = Poller::register("always", Duration::ZERO, move || {
            counted.set(counted.get() + 1);
            if begin.elapsed() >= Duration::from_millis(100) {
                own.take();
                tell.send((calls.get(), counted.get())).expect("somebody waits");
            }
            Poll::Idle
        });
        if let Some((_, place)) = held.borrow_mut().as_mut() {
            place.replace(always.expect("a poller"));
        }
    });
    assert!((1..=20).contains(&calls), "{calls} calls in 100 ms");
    assert!(rounds > u64::from(calls), "{rounds} rounds");
}

/// An I/O device that gives each channel a number.
#[derive(Default)]
struct Numbers {
    made: AtomicU32,
    live: Arc<AtomicU32>,
}

struct Number {
    number: u32,
    live: Arc<AtomicU32>,
}

impl ChannelFactory for Numbers {
    type Channel = Number;

    fn create(&self) -> Result<Number, Errno> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        if number == 3 {
            return Err(Errno::NOMEM);
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(Number { number, live: Arc::clone(&self.live) })
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
#[serial]
fn a_thread_has_one_channel_until_the_last_reference_is_dropped() {
    app();
    let live = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&live);
    from_app(move |tell| {
        let factory = Numbers { live: counted, ..Numbers::default() };
        let device = IoDevice::register("numbers", factory).expect("an SPDK thread");
        let (one, same) = (device.channel().expect("a channel"), device.channel().expect("a channel"));
        assert_eq!((one.number, same.number, device.shared().live.load(Ordering::Relaxed)), (0, 0, 1));
        drop(one);
        assert_eq!(same.number, 0);
        device.clone().unregister(move || tell.send(()).expect("somebody waits")).expect("registered");
        assert!(device.channel().is_err(), "no new channels of a device that is unregistered");
        drop(same);
    });
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

#[test]
#[serial]
fn a_factory_that_fails_gives_no_channel() {
    app();
    from_app(|tell| {
        let factory = Numbers { made: AtomicU32::new(3), ..Numbers::default() };
        let device = IoDevice::register("failing", factory).expect("an SPDK thread");
        assert_eq!(device.channel().err(), Some(Errno::NOMEM));
        device.unregister(move || tell.send(()).expect("somebody waits")).expect("registered");
    });
}

#[test]
#[serial]
fn a_device_is_unregistered_once_and_on_an_spdk_thread_only() {
    app();
    let device = on_app(|| IoDevice::register("once", Numbers::default()).expect("an SPDK thread"));
    assert_eq!(device.clone().unregister(|| ()), Err(Errno::PERM));
    let again = from_app(move |tell| {
        let clone = device.clone();
        let done = move || tell.send(clone.unregister(|| ())).expect("somebody waits");
        device.unregister(done).expect("registered");
    });
    assert_eq!(again, Err(Errno::NODEV));
}

#[test]
#[serial]
fn a_walk_over_a_device_that_is_unregistered_ends_with_an_error() {
    app();
    let outcome = from_app(|tell| {
        let device = IoDevice::register("gone", Numbers::default()).expect("an SPDK thread");
        device.clone().unregister(|| ()).expect("registered");
        let each = |_: &Number, advance: Advance| advance.go_on(Ok(()));
        device.for_each_channel(each, move |result| tell.send(result).expect("somebody waits")).expect("it begins");
    });
    assert_eq!(outcome, Err(Errno::NODEV));
}

/// Walks over the channels of three threads; `step` decides how each goes on.
fn walk(step: fn(u32) -> Option<Result<(), Errno>>) -> (Vec<u32>, Result<(), Errno>) {
    app();
    let device = on_app(|| IoDevice::register("walked", Numbers::default()).expect("an SPDK thread"));
    let threads: Vec<OwnedThread> =
        (0..3).map(|n| OwnedThread::on_core(&format!("walked{n}"), 0).expect("a thread")).collect();
    for thread in &threads {
        let (device, (tell, told)) = (device.clone(), channel());
        let take = move || {
            // Held until the thread's last message.
            HELD.with(|held| held.borrow_mut().push(device.channel().expect("a channel")));
            tell.send(()).expect("somebody waits");
        };
        thread.send(take).expect("the thread takes messages");
        told.recv_timeout(PATIENCE).expect("the thread answers");
    }
    let walked = device.clone();
    let outcome = from_app(move |tell| {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let each = move |channel: &Number, advance: Advance| {
            noted.lock().expect("not poisoned").push(channel.number);
            match step(channel.number) {
                Some(result) => advance.go_on(result),
                None => drop(advance),
            }
        };
        let done = move |result| {
            let seen = std::mem::take(&mut *seen.lock().expect("not poisoned"));
            assert!(on_app_thread());
            tell.send((seen, result)).expect("somebody waits");
        };
        walked.for_each_channel(each, done).expect("an SPDK thread");
    });
    // All three run on one core, so that they share the thread-local; each drops one that is its own.
    for thread in threads {
        let (tell, told) = channel();
        let give = move || {
            drop(HELD.with(|held| held.borrow_mut().remove(0)));
            tell.send(()).expect("somebody waits");
        };
        thread.send(give).expect("the thread takes messages");
        told.recv_timeout(PATIENCE).expect("the thread answers");
    }
    from_app(move |tell| {
        device.unregister(move || tell.send(()).expect("somebody waits")).expect("registered");
    });
    outcome
}

thread_local! {
    static HELD: RefCell<Vec<spdk::io_device::IoChannel<Number>>> = const { RefCell::new(Vec::new()) };
}

#[test]
#[serial]
fn a_walk_visits_every_channel() {
    let (mut seen, result) = walk(|_| Some(Ok(())));
    seen.sort_unstable();
    assert_eq!((seen, result), (vec![0, 1, 2], Ok(())));
}

#[test]
#[serial]
fn a_walk_ends_with_the_first_error() {
    let (seen, result) = walk(|_| Some(Err(Errno::BUSY)));
    assert_eq!((seen.len(), result), (1, Err(Errno::BUSY)));
}

#[test]
#[serial]
fn a_walk_whose_step_is_dropped_is_called_off() {
    let (seen, result) = walk(|_| None);
    assert_eq!((seen.len(), result), (1, Err(Errno::CANCELED)));
}

#[test]
#[serial]
fn dma_memory_is_zeroed_aligned_and_may_move_between_threads() {
    app();
    let mut buffer = on_app(|| DmaBuf::zeroed(10_000, 4_096)).expect("memory");
    assert_eq!(buffer.as_ptr() as usize % 4_096, 0);
    assert!(buffer.len() == 10_000 && buffer.iter().all(|&byte| byte == 0));
    buffer.fill(7);
    on_app(move || assert!(buffer.iter().all(|&byte| byte == 7)));
}

#[test]
#[serial]
fn dma_memory_of_no_length_or_an_odd_alignment_is_refused() {
    app();
    assert_eq!(DmaBuf::zeroed(0, 64).err(), Some(Errno::INVAL));
    assert_eq!(DmaBuf::zeroed(64, 3).err(), Some(Errno::INVAL));
    assert_eq!(DmaBuf::zeroed(64, 0).err(), Some(Errno::INVAL));
    assert_eq!(DmaBuf::zeroed(usize::MAX / 2, 64).err(), Some(Errno::NOMEM));
}

#[test]
#[serial]
fn connecting_to_a_closed_port_is_refused() {
    app();
    let port = {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("an address").port().to_string()
    };
    let outcome = from_app(move |tell| {
        let nqn = "nqn.2024-01.com.example:none";
        let trid = TransportId::new(TransportType::Tcp, AddressFamily::Ipv4, "127.0.0.1", &port, nqn);
        let start = Connect::start(&trid.expect("it fits"), &CtrlrOptions::default());
        let mut connect = start.expect("it begins");
        let own = Rc::new(RefCell::new(None));
        let held = Rc::clone(&own);
        let poll = move || {
            if let Some(outcome) = connect.poll() {
                held.take();
                tell.send(outcome.map(drop)).expect("somebody waits");
            }
            Poll::Busy
        };
        own.replace(Some(Poller::register("connect", Duration::from_millis(1), poll).expect("a poller")));
    });
    assert_eq!(outcome, Err(ConnectFailed::Refused));
}

#[test]
#[serial]
fn a_thread_on_a_core_without_a_reactor_is_refused() {
    app();
    for core in [1, 127, 1_024, u32::MAX] {
        assert_eq!(OwnedThread::on_core("nowhere", core).err(), Some(Errno::INVAL), "core {core}");
    }
}

thread_local! {
    static LEFT: RefCell<Option<Poller>> = const { RefCell::new(None) };
}

#[test]
#[serial]
fn a_poller_or_channel_that_is_dropped_by_another_spdk_thread_of_its_core_stays() {
    app();
    let (calls, live) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, counted_live) = (Arc::clone(&calls), Arc::clone(&live));
    let owner = OwnedThread::on_core("owner", 0).expect("a thread");
    let (tell, told) = channel();
    let device = on_app(move || {
        let factory = Numbers { live: counted_live, ..Numbers::default() };
        IoDevice::register("left", factory).expect("an SPDK thread")
    });
    let left = device.clone();
    let leave = move || {
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Poll::Idle
        };
        LEFT.set(Some(Poller::register("left", Duration::ZERO, count).expect("a poller")));
        HELD.with(|held| held.borrow_mut().push(left.channel().expect("a channel")));
        tell.send(()).expect("somebody waits");
    };
    owner.send(leave).expect("the thread takes messages");
    told.recv_timeout(PATIENCE).expect("the thread answers");
    // The application's thread runs on the same core.
    on_app(|| {
        drop(LEFT.take());
        drop(HELD.take());
    });
    let before = calls.load(Ordering::Relaxed);
    wait_until("the poller is still called", || calls.load(Ordering::Relaxed) > before + 10);
    assert_eq!(live.load(Ordering::Relaxed), 1, "the channel is still there");
}
