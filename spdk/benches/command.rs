//! What Courier itself puts into a capsule: `cargo bench --package spdk --bench command`. The initiator adds the
//! identifier and the data pointer.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nvme_spec::Sqe;
use nvme_spec::nvm::BlockDw12;

fn build(c: &mut Criterion) {
    c.bench_function("build a read", |b| {
        b.iter(|| Sqe::read(black_box(1), black_box(77), BlockDw12::of(black_box(0))));
    });
}

criterion_group!(command, build);
criterion_main!(command);
