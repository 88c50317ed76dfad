//! Links libtorch so that the binary finds it again without LD_LIBRARY_PATH, and CUDA with it where there is one.
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    let Some(libtorch) = std::env::var_os("LIBTORCH") else { return };
    let Ok(lib) = Path::new(&libtorch).join("lib").canonicalize() else {
        println!("cargo:warning=LIBTORCH has no lib folder; run `make setup`");
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // Nothing of ours calls into libtorch.so, so the linker would drop it. In a CUDA build it is what loads
    // libtorch_cuda.so; in a CPU build it is empty. So one binary serves both, by whichever it finds at run time.
    println!("cargo:rustc-link-arg=-L{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch,--as-needed");
}
