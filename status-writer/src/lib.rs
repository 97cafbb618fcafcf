#![doc = include_str!("../README.md")]

mod allowance;
mod config;
mod decide;
mod desk;
mod field;
mod line;
mod metrics;
mod pace;
mod portal;
mod round;
mod store;
mod writer;

use runtime::{Context, Reader, Stage};

pub use config::{Config, StatusFields};

/// The stage.
pub struct StatusWriter;

impl Stage for StatusWriter {
    const NAME: &'static str = "status-writer";
    const ABOUT: &'static str = "Writes what became of each record into its status field in Bitrix24.";
    type Config = Config;

    fn configure(reader: &Reader<'_>) -> Option<Config> {
        Config::read(reader)
    }

    async fn run(config: Config, context: Context) -> anyhow::Result<()> {
        writer::run(config, context).await
    }
}
