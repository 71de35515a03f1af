//! Courier against live processes: a stock `spdk_tgt` as the pool, SPDK's own tools as the clients.
//!
//! Every process has a folder of its own in a folder that goes with this one. The tests take turns: they share the
//! machine, and most of them one pool and one `courier_tgt`.
//!
//! `COURIER_TARGET_DIR` names the folder of `courier_tgt` and `libcourier.so`, if they are not those that cargo built
//! for this test. `COURIER_TEST_FRONT_END=stock` has SPDK's own front end make the controllers, for comparison: it does
//! not pass all of the tests, and some take its process down.
//!
//! The whole comparison with stock runs only if asked: `scripts/faults-compare.sh`.
//!
//! The tests in a guest run only if asked: `-- --ignored guest::`. Those with RDMA need another machine:
//! `scripts/test-rdma.sh`.
#![expect(clippy::panic, reason = "a test fails by a panic")]

mod support;

mod away_at_start;
mod bad_input;
mod clients;
mod controller_bad_input;
mod controller_claims;
mod controller_client_dma;
mod controller_clients;
mod controller_doorbells;
mod controller_hostile_commands;
mod controller_hostile_memory;
mod controller_hostile_queues;
mod controller_hostile_wire;
mod controller_isolation;
mod controller_life;
mod controller_namespaces;
mod controller_passthru;
mod controller_pci;
mod controller_secrets;
mod controller_start_stop;
mod data;
mod faults;
mod front;
mod guest;
mod inspect;
mod log_lines;
mod namespaces;
mod neighbour;
mod pools_hang;
mod pools_lie;
mod pools_stuck;
mod program;
mod rdma;
mod rounds;
mod scheduler;
mod shutdown;
mod stats;
mod stock;
