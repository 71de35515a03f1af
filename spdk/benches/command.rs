//! What Courier itself puts into a capsule: `cargo bench --package spdk --bench command`. The initiator adds the identifier and the data pointer.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use spdk::nvme::Sqe;

fn build(c: &mut Criterion) {
    c.bench_function("build a read", |b| {
        b.iter(|| Sqe::read(black_box(1), black_box(77), black_box(1), black_box(0)).with_cdw13(0));
    });
}

criterion_group!(command, build);
criterion_main!(command);
