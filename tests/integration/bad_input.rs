//! Bad input to every RPC method: a clear error, and nothing half made.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::App;
use crate::support::pool::{NQN, Pool, free_port};
use crate::support::{secs, shared};

/// How long an RPC that has nothing to wait for may take on a busy machine.
const PROMPT: Duration = Duration::from_secs(1);

/// What must be the same before and after a call that failed: all but what tells how long ago something was.
fn state(app: &App) -> (Value, Vec<String>) {
    let mut pools = app.rpc.ok("courier_pool_get", &Value::Null);
    for pool in pools.as_array_mut().expect("a list of pools") {
        for member in ["queue_pairs", "unanswered_cores"] {
            pool.as_object_mut().expect("an object").remove(member).expect("it is told of every pool");
        }
    }
    (pools, app.bdevs())
}

/// Returns a `courier_tgt` with pool `p` and bdev `disk` of its namespace 1.
fn prepared(pool: &Pool) -> shared::Shared<App> {
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    app
}

/// Every call fails with its words in the message, and leaves everything as it was.
#[track_caller]
fn all_fail(app: &App, method: &str, cases: &[(Value, &[&str])]) {
    let before = state(app);
    for (params, words) in cases {
        app.rpc.fails(method, params, words);
        assert_eq!(state(app), before, "{method} {params} left something behind");
    }
}

#[test]
#[serial]
fn bad_parameters_of_pool_create_are_refused_by_name_and_value() {
    let pool = shared::pool();
    let app = prepared(&pool);
    // Of the same host, they would be one controller.
    let other = pool.params_with("q", &json!({ "hostnqn": "nqn.2024-01.com.example:other-host" }));
    let with = |changes: Value| {
        let mut params = other.clone();
        params.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        params
    };
    let without = |key: &str| {
        let mut params = other.clone();
        params.as_object_mut().expect("an object").remove(key);
        params
    };
    let long = "n".repeat(256);
    let cases: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["name"]),
        (json!([1]), &["object"]),
        (without("name"), &["name", "missing"]),
        (without("trtype"), &["trtype", "missing"]),
        (without("traddr"), &["traddr", "missing"]),
        (without("subnqn"), &["subnqn", "missing"]),
        (with(json!({ "name": 7 })), &["name", "7"]),
        (with(json!({ "name": "" })), &["name"]),
        (with(json!({ "name": long })), &["name", "255"]),
        (with(json!({ "name": "a\nb" })), &["name"]),
        (with(json!({ "name": "p" })), &["'p'", "exists"]),
        (with(json!({ "trtype": "pcie" })), &["trtype", "pcie", "tcp"]),
        (with(json!({ "traddr": "pool.example.com" })), &["traddr", "pool.example.com"]),
        (with(json!({ "traddr": "::1" })), &["traddr", "::1", "IPv4"]),
        (with(json!({ "adrfam": "ipv6" })), &["traddr", "127.0.0.1", "IPv6"]),
        (with(json!({ "adrfam": "ib" })), &["adrfam", "ib"]),
        (with(json!({ "trsvcid": 4420 })), &["trsvcid", "4420"]),
        (with(json!({ "trsvcid": "0" })), &["trsvcid", "\"0\""]),
        (with(json!({ "trsvcid": "65536" })), &["trsvcid", "65536"]),
        (with(json!({ "subnqn": "pool" })), &["subnqn", "pool"]),
        (with(json!({ "subnqn": format!("nqn.{}", "x".repeat(300)) })), &["subnqn", "223"]),
        (with(json!({ "subnqn": "nqn.2014-08.org.nvmexpress.discovery" })), &["subnqn", "discovery"]),
        (with(json!({ "hostnqn": "me" })), &["hostnqn", "me"]),
        (with(json!({ "hostaddr": "here" })), &["hostaddr", "here"]),
        (with(json!({ "hostsvcid": "door" })), &["hostsvcid", "door"]),
        (with(json!({ "hdgst": "yes" })), &["hdgst", "yes"]),
        (with(json!({ "num_io_queues": 0 })), &["num_io_queues", "0"]),
        (with(json!({ "num_io_queues": 4_294_967_296_u64 })), &["num_io_queues", "4294967296"]),
        (with(json!({ "io_queue_size": 1 })), &["io_queue_size", "1"]),
        (with(json!({ "io_queue_size": 4_294_967_295_u64 })), &["io_queue_size", "4294967295"]),
        (with(json!({ "io_queue_requests": 1e30 })), &["io_queue_requests"]),
        (with(json!({ "io_queue_size": 128, "io_queue_requests": 64 })), &["io_queue_requests", "64", "128"]),
        (with(json!({ "keep_alive_timeout_ms": 1 })), &["keep_alive_timeout_ms", "1"]),
        (with(json!({ "keep_alive_timeout_ms": -1 })), &["keep_alive_timeout_ms", "-1"]),
        (with(json!({ "connect_timeout_ms": 0 })), &["connect_timeout_ms", "0"]),
        (with(json!({ "reconnect_delay_sec": 0 })), &["reconnect_delay_sec", "0"]),
        (with(json!({ "ctrlr_loss_timeout_sec": -2 })), &["ctrlr_loss_timeout_sec", "-2"]),
        (
            with(json!({ "ctrlr_loss_timeout_sec": 5, "fast_io_fail_timeout_sec": 6 })),
            &["fast_io_fail_timeout_sec", "6", "ctrlr_loss_timeout_sec"],
        ),
        (with(json!({ "nqn": NQN })), &["nqn", "unknown"]),
    ];
    all_fail(&app, "courier_pool_create", &cases);
    app.rpc.ok("courier_pool_create", &other);
    app.rpc.ok("courier_pool_delete", &json!({ "name": "q" }));
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

#[test]
#[serial]
fn bad_parameters_of_the_other_methods_are_refused_by_name_and_value() {
    let pool = shared::pool();
    let app = prepared(&pool);
    let bdev = |name: &str, pool: &str, nsid: Value| json!({ "name": name, "pool": pool, "nsid": nsid });
    let cases: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["missing"]),
        (json!({ "pool": "p", "nsid": 2 }), &["name", "missing"]),
        (json!({ "name": "d", "nsid": 2 }), &["pool", "missing"]),
        (json!({ "name": "d", "pool": "p" }), &["nsid", "missing"]),
        (bdev("", "p", json!(2)), &["name"]),
        (bdev("d", "", json!(2)), &["''"]),
        (bdev("d", "other", json!(2)), &["'other'", "'p'"]),
        (bdev("d", "p", json!(0)), &["nsid", "0"]),
        (bdev("d", "p", json!("2")), &["nsid", "\"2\""]),
        (bdev("d", "p", json!(-1)), &["nsid", "-1"]),
        (bdev("d", "p", json!(4_294_967_295_u64)), &["nsid", "4294967295"]),
        (bdev("d", "p", json!(4_294_967_296_u64)), &["nsid", "4294967296"]),
        (bdev("d", "p", json!(4_294_967_294_u64)), &["namespace", "4294967294", "1, 2"]),
        (bdev("d", "p", json!(3)), &["namespace", "3", "1, 2"]),
        (bdev("d", "p", json!(1)), &["namespace", "1", "'disk'"]),
        (bdev("disk", "p", json!(2)), &["'disk'"]),
        (json!({ "name": "d", "pool": "p", "nsid": 2, "uuid": "x" }), &["uuid", "unknown"]),
    ];
    all_fail(&app, "bdev_courier_create", &cases);
    let name_only: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["name", "missing"]),
        (json!({ "name": 1 }), &["name", "1"]),
        (json!({ "name": "other" }), &["'other'"]),
        (json!({ "name": "p", "force": true }), &["force", "unknown"]),
    ];
    all_fail(&app, "courier_pool_delete", &name_only);
    all_fail(&app, "bdev_courier_delete", &name_only);
    all_fail(&app, "courier_pool_get", &name_only[1..]);

    app.rpc.ok("bdev_courier_create", &bdev("d", "p", json!(2)));
    app.rpc.ok("bdev_courier_delete", &json!({ "name": "d" }));
    app.rpc.ok("bdev_courier_delete", &json!({ "name": "disk" }));
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    assert_eq!(state(&app), (json!([]), vec![]));
}

#[test]
#[serial]
fn what_is_no_json_rpc_is_refused_and_the_target_lives() {
    let app = shared::courier();
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"courier_pool_get","params":{}"#, "[".repeat(5_000));
    for text in [r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "[]", "{} nonsense", &deep] {
        assert!(app.rpc.send(text.as_bytes()).is_err(), "{text} was taken");
    }
    app.assert_alive();
}

#[test]
#[serial]
fn a_refused_connection_and_a_wrong_nqn_are_told_apart() {
    let pool = shared::pool();
    let app = shared::courier();
    let port = free_port().to_string();
    let start = Instant::now();
    let nobody = pool.params_with("p", &json!({ "trsvcid": port }));
    all_fail(&app, "courier_pool_create", &[(nobody, &["'p'", "127.0.0.1", &port, "nothing answers"])]);
    let wrong = "nqn.2024-01.com.example:other";
    let other = pool.params_with("p", &json!({ "subnqn": wrong }));
    all_fail(&app, "courier_pool_create", &[(other, &["'p'", wrong, "127.0.0.1", "something answers"])]);
    assert!(start.elapsed() < secs(10), "that took {:?}", start.elapsed());
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

/// While a pool is being connected that does not answer, every other RPC is answered at once, the attempt ends in time,
/// and its name is free again.
fn gives_up_in_time(app: &App, pool: &Pool, address: SocketAddr, words: &[&str]) {
    let silent = json!({
        "traddr": address.ip().to_string(), "trsvcid": address.port().to_string(), "connect_timeout_ms": 1_500,
    });
    let params = pool.params_with("p", &silent);
    let start = Instant::now();
    let answer = app.rpc.begin("courier_pool_create", params.clone());
    let mut asked = 0;
    let failure = loop {
        if let Ok(result) = answer.try_recv() {
            break result.expect_err("nothing answers there");
        }
        let call = Instant::now();
        let pools = app.rpc.ok("courier_pool_get", &Value::Null);
        assert!(pools == json!([]) || pools[0]["state"] == "connecting", "{pools}");
        assert!(call.elapsed() < PROMPT, "connecting held up another RPC for {:?}", call.elapsed());
        asked += 1;
        assert!(start.elapsed() < secs(10), "it does not give up");
    };
    assert!(start.elapsed() < secs(6), "it gave up only after {:?}", start.elapsed());
    assert!(asked > 5, "other RPCs were answered only {asked} times");
    for word in ["'p'", "1500 ms"].iter().chain(words) {
        assert!(failure.message.contains(word), "{word:?} is not in: {}", failure.message);
    }
    assert_eq!(app.bdevs(), Vec::<String>::new());
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

#[test]
#[serial]
fn a_target_that_accepts_and_says_nothing_is_given_up_in_time() {
    let pool = shared::pool();
    let app = shared::courier();
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    let address = silent.local_addr().expect("a listener has an address");
    gives_up_in_time(&app, &pool, address, &["something answers"]);
}

#[test]
#[serial]
fn an_address_that_never_answers_is_given_up_in_time() {
    let pool = shared::pool();
    let app = shared::courier();
    let (address, _full) = black_hole();
    gives_up_in_time(&app, &pool, address, &["nothing answers"]);
}

/// Returns an address where SYNs are dropped: a listener whose backlog is full.
fn black_hole() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    shorten_backlog(&listener);
    let address = listener.local_addr().expect("a listener has an address");
    let mut streams = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        streams.push(stream);
        assert!(streams.len() < 100, "the backlog does not fill");
    }
    (address, (listener, streams))
}

#[expect(unsafe_code, reason = "std cannot set a listener's backlog")]
fn shorten_backlog(listener: &TcpListener) {
    // SAFETY: the descriptor is open; listen(2) on a socket that listens changes its backlog only.
    let rc = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    assert_eq!(rc, 0, "listen");
}
