//! The rows of a benchmark: as tables for people, and as JSON for programs.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::{Write, stdout};
use std::path::Path;
use tabled::settings::Style;
use tabled::{Table, Tabled};

/// What a benchmark measured so far.
#[derive(Default)]
pub struct Report {
    tables: Map<String, Value>,
}

impl Report {
    /// Prints a table, and keeps its rows under that name.
    pub fn add<R: Serialize + Tabled>(&mut self, name: &str, caption: &str, rows: &[R]) -> Result<()> {
        let mut table = Table::new(rows);
        writeln!(stdout(), "{caption}\n\n{}\n", table.with(Style::markdown()))?;
        self.tables.insert(name.to_owned(), serde_json::to_value(rows)?);
        Ok(())
    }

    /// Writes all rows, with how they were measured.
    pub fn write(&self, file: &Path) -> Result<()> {
        let report = json!({
            "arguments": Vec::from_iter(std::env::args().skip(1)),
            "cores": std::thread::available_parallelism()?,
            "tables": self.tables,
        });
        let write = || {
            std::fs::create_dir_all(file.parent().unwrap_or(Path::new("")))?;
            std::fs::write(file, format!("{report:#}\n"))
        };
        write().with_context(|| format!("cannot write the results to {}", file.display()))?;
        writeln!(stdout(), "Results: {}", file.display())?;
        Ok(())
    }
}
