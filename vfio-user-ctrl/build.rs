//! Links this crate's tests against SPDK. What depends on the crate links as it sees fit.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Told by spdk-sys, one argument after another with a unit separator in between.
    let arguments = std::env::var("DEP_SPDK_STATIC_LIBS").unwrap_or_default();
    for argument in arguments.split('\u{1f}').filter(|argument| !argument.is_empty()) {
        println!("cargo:rustc-link-arg={argument}");
    }
}
