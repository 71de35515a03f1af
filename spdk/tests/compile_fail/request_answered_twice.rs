//! A client's call is answered once.

use spdk::rpc::Request;

fn twice(request: Request) {
    request.reply(&1);
    request.reply(&2);
}

fn main() {}
