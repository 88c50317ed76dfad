#![no_main]
//! See `fedlearn_fuzz::container`.

libfuzzer_sys::fuzz_target!(init: fedlearn_fuzz::on_one_thread(), |data: &[u8]| {
    fedlearn_fuzz::container(data);
});
