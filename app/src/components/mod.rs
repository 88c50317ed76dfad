//! The parts of a page, as functions of the board's signals.

mod chart;
mod client_table;
mod config_dialog;
mod config_panel;
mod controls;
mod figures;
mod header;
mod history;
mod kick_dialog;
mod progress;
mod run_menu;

pub use chart::Chart;
pub use client_table::ClientTable;
pub use config_panel::ConfigPanel;
pub use controls::Controls;
pub use figures::Figures;
pub use header::{Header, Runs, facts};
pub use history::History;
pub use kick_dialog::KickDialog;
pub use progress::Progress;
pub use run_menu::RunMenu;
