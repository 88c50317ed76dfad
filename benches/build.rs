//! Lets the benchmarks find libtorch without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let (Some(_), Some(libtorch)) = (std::env::var_os("CARGO_CFG_UNIX"), std::env::var_os("LIBTORCH")) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}/lib", libtorch.display());
    }
}
