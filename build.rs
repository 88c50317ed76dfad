//! Links libtorch so that the binary finds it again without LD_LIBRARY_PATH.
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
    if lib.join("libtorch_cuda.so").exists() {
        // Nothing of ours calls into it, so the linker would drop it; loading it is what registers CUDA.
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,{},--as-needed", lib.join("libtorch_cuda.so").display());
    }
}
