//! Short forms of the benchmarks, by the results that they write.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;

/// Runs a benchmark on the `fedlearn` of the same build, and reads its results.
fn results(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results/of-this.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_fedlearn-bench"));
    let output = bench.args(arguments).arg("--json").arg(&file).current_dir(folder.path()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("| clients "), "it prints a table: {printed}");
    let results: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(results["arguments"][0], arguments[0]);
    results["tables"].clone()
}

#[test]
fn exchange_runs_real_rounds() {
    // When two agents exchange a network of 206,922 values,
    let tables = results(&["exchange", "--arch", "cnn", "--clients", "2", "--rounds", "2", "--encoding", "f32,q8"]);
    // then an update has 0.83 MB as f32, and about a quarter of it as q8.
    let [f32, q8] = &tables["exchange"].as_array().unwrap()[..] else { panic!("{tables}") };
    assert!((820_000.0..840_000.0).contains(&f32["update_bytes"].as_f64().unwrap()), "{f32}");
    assert!((150_000.0..250_000.0).contains(&q8["update_bytes"].as_f64().unwrap()), "{q8}");
    assert!(f32["peak_bytes"].as_u64() > Some(10 << 20) && f32["cpu_s"].as_f64() > Some(0.0), "{f32}");
}

#[test]
fn the_coordinator_answers_and_counts_many_clients_at_once() {
    // When 300 clients wait for an order at once, 30 take part in 3 rounds, and 16 updates come in at once,
    let size = ["--clients", "300,30", "--rounds", "3", "--uploads", "16", "--arch", "cnn", "--turn-s", "1"];
    let tables = results(&[&["load"][..], &size].concat());
    // then the order reaches all, every update counts, and no request has to be repeated.
    let row = |table: &str| tables[table][0].clone();
    assert_eq!((&row("waiting")["clients"], &row("waiting")["busy"]), (&300.into(), &0.into()));
    assert_eq!((&row("rounds")["updates"], &row("rounds")["busy"]), (&90.into(), &0.into()));
    assert_eq!(row("uploads")["updates_at_once"], 16);
    assert!(row("uploads")["peak_bytes"].as_u64() >= row("uploads")["resident_before_bytes"].as_u64());
}

#[test]
fn a_missing_program_is_reported_with_what_to_do() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_fedlearn-bench"));
    let output = bench.args(["exchange", "--program", "no/such/program"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no program no/such/program") && error.contains("cargo build"));
}
