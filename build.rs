//! Links the program against SPDK. The plugin is left alone: it finds SPDK in the process that loads it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Told by spdk-sys, one argument after another with a unit separator in between.
    let arguments = std::env::var("DEP_SPDK_STATIC_LIBS").unwrap_or_default();
    for argument in arguments.split('\u{1f}').filter(|argument| !argument.is_empty()) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
