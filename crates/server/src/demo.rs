//! The demonstration.

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {}

pub(crate) fn run(_options: &Options) -> anyhow::Result<bool> {
    anyhow::bail!("soon")
}
