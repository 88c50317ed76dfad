//! Links libtorch so that the program finds it without LD_LIBRARY_PATH, and CUDA with it where there is one.
use std::path::{Component, Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    let Some(libtorch) = std::env::var_os("LIBTORCH") else { return };
    let lib = Path::new(&libtorch).join("lib");
    if !lib.is_dir() {
        println!("cargo:warning=LIBTORCH has no lib folder; run `make setup`");
        return;
    }
    if std::env::var_os("CARGO_CFG_UNIX").is_some() {
        // Where `make install` puts it; then where it is for the programs in target/PROFILE and for the tests one folder below.
        for place in ["$ORIGIN/../lib/fedlearn".into()].into_iter().chain(from_target(&lib)) {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{place}");
        }
    }
    // Nothing of ours calls into libtorch.so, so the linker would drop it. In a CUDA build it is what loads
    // libtorch_cuda.so; in a CPU build it is empty. So one binary serves both, by whichever it finds at run time.
    println!("cargo:rustc-link-arg=-L{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch,--as-needed");
}

/// The run paths to this folder. One inside the checkout is relative to the program: an absolute path would lead into the
/// builder's home, which other users cannot read.
fn from_target(lib: &Path) -> Vec<String> {
    let variable = |name| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let (checkout, out) = (variable("CARGO_MANIFEST_DIR"), variable("OUT_DIR"));
    // OUT_DIR is target/PROFILE/build/PACKAGE/out.
    match out.ancestors().nth(3) {
        Some(profile) if lib.starts_with(&checkout) && profile.starts_with(&checkout) => {
            let path = relative(profile, lib);
            vec![format!("$ORIGIN/{}", path.display()), format!("$ORIGIN/../{}", path.display())]
        }
        _ => vec![lib.display().to_string()],
    }
}

fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}
