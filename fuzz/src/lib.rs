//! The fuzz targets of the wire format, and what they need around them.

mod targets;

pub use targets::*;

/// Makes the calling thread the only one that reads blocks: handing them to another one costs more than reading them.
pub fn on_one_thread() {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    threads.build_global().expect("the first call");
}
