//! The command line: what can be asked of `slipring`, and who does it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use slipring_ring::NodeState;

use crate::client::{self, Care, Changes, Client, Waiting};
use crate::demo;
use crate::output::{self, note, say};
use crate::recover;
use crate::settings::{Place, Settings, Sources};
use crate::start;

/// A peer-to-peer data platform: replicated keys without a master, for Redis and HTTP clients.
#[derive(Parser)]
#[command(name = "slipring", version, max_term_width = 110)]
struct Cli {
    /// The HTTP address of the node that client commands talk to.
    #[arg(
        long,
        global = true,
        env = "SLIPRING_NODE",
        default_value = "http://127.0.0.1:7379",
        value_name = "URL"
    )]
    node: String,
    /// Seconds a node may take for one answer. 1 to 3,600. A wait with --wait has its --timeout besides.
    #[arg(
        long,
        global = true,
        env = "SLIPRING_ANSWER_WITHIN",
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    answer_within: u64,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a node: found a cluster, join one with --join, or go on in the one its directory belongs to.
    Start {
        #[command(flatten)]
        sources: Sources,
        #[command(flatten)]
        watching: start::Watching,
    },
    /// Start three nodes on this machine and show how they survive the death of one.
    Demo(demo::Options),
    /// Show the cluster: its nodes, who can be reached, what they hold.
    Status,
    /// Print a value.
    Get {
        key: String,
        /// The bucket.
        #[arg(long, default_value = "default")]
        bucket: String,
    },
    /// Write a value.
    Put {
        key: String,
        value: String,
        /// The bucket.
        #[arg(long, default_value = "default")]
        bucket: String,
        /// Milliseconds until it expires.
        #[arg(long)]
        ttl_ms: Option<u64>,
    },
    /// Delete a value.
    Del {
        key: String,
        /// The bucket.
        #[arg(long, default_value = "default")]
        bucket: String,
    },
    /// Make, list, change and delete buckets.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Show who holds what, plan changes of it, agree on them.
    #[command(subcommand)]
    Layout(LayoutCommand),
    /// Let a node give away what it holds; it stays a member and takes its share again after `restore`.
    Drain {
        /// The beginning of its id, or one of its addresses.
        name: String,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Give a drained node its share again.
    Restore {
        /// The beginning of its id, or one of its addresses.
        name: String,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let a node give away what it holds and leave the cluster.
    Remove {
        /// The beginning of its id, or one of its addresses; the whole id, to give it up with --force though it answers.
        name: String,
        /// It is dead and its data is given up: what it held is rebuilt from the other copies.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let one node take the place of a dead one: its zone, its weight and what it held, rebuilt from the other copies.
    ///
    /// Nothing else moves, where the node was started with --join and --spare. The dead one's data is given up.
    Replace {
        /// The dead node: the beginning of its id, or one of its addresses; the whole id, if it answers and --force is given.
        #[arg(value_name = "DEAD")]
        dead: String,
        /// The node that takes its place, called likewise.
        #[arg(long, value_name = "NODE")]
        by: String,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Say whether one node, whichever, may be stopped now: no partition lacks a copy that it could have. 1: it should not.
    OkToStop {
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let a stopped node go on when most voters of the layout group are lost for good.
    ///
    /// Without --lost it shows what the node's data directory knows and changes nothing. With it, the node becomes
    /// the only voter and the named nodes are given up: what only they had agreed on is lost.
    Recover {
        /// A node that will never return: the beginning of its id, or one of its addresses. May be repeated.
        #[arg(long, value_name = "NODE")]
        lost: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Show every setting, its value, and where the value comes from.
    Config {
        #[command(flatten)]
        sources: Sources,
    },
    /// Print a completion script for a shell.
    Completions { shell: Shell },
}

#[derive(Subcommand)]
enum BucketCommand {
    /// Make a bucket.
    Create {
        name: String,
        /// What it begins with: durable or cache.
        #[arg(long, default_value = "durable")]
        preset: String,
        /// A field that differs from the preset, as FIELD=VALUE; may be repeated. Fields: replicas, read_acks,
        /// write_acks, on_conflict, engine, durability, ttl_ms.
        #[arg(long = "set", value_name = "FIELD=VALUE")]
        policy: Vec<String>,
    },
    /// List the buckets.
    List,
    /// Give a bucket another number of copies: data begins to move.
    Set {
        name: String,
        /// Copies of each key, 1 to 7; a smaller cluster holds as many as it has nodes.
        #[arg(long, value_name = "COPIES")]
        replicas: u8,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Delete a bucket and everything in it.
    Delete { name: String },
}

#[derive(Subcommand)]
enum LayoutCommand {
    /// Show the layout in force.
    Show,
    /// Show what changes would move, and what could fail then. Nothing changes.
    Plan {
        #[command(flatten)]
        changes: Changes,
    },
    /// Make changes: data begins to move, but for --split.
    Commit {
        #[command(flatten)]
        changes: Changes,
        /// Only if the layout is still at this epoch: the one that `plan` shows.
        #[arg(long)]
        epoch: Option<u64>,
        #[command(flatten)]
        care: Care,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Take back the changes that the moves under way come from. A split is not taken back, and what is lost stays lost.
    Revert,
    /// Show how far the moves under way are, until they are over.
    Watch,
}

/// Runs what the command line asks for. 0: done; 1: failed, or nothing found; 2: the command line is wrong.
pub(crate) fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli, &matches) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            note!("slipring: {}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, matches: &ArgMatches) -> anyhow::Result<bool> {
    let client = Client::new(&cli.node, cli.json, Duration::from_secs(cli.answer_within));
    let own = matches.subcommand().map_or(matches, |(_, own)| own);
    match cli.command {
        Command::Start { sources, watching } => {
            let (settings, origins) = sources.settings(own)?;
            log_to_stderr(&settings)?;
            start::run(&settings, &origins, &watching)?;
        }
        Command::Demo(options) => return demo::run(&options),
        Command::Status => client.status()?,
        Command::Get { key, bucket } => return client.get(&bucket, &key),
        Command::Put { key, value, bucket, ttl_ms } => client.put(&bucket, &key, &value, ttl_ms)?,
        Command::Del { key, bucket } => return client.delete(&bucket, &key),
        Command::Bucket(BucketCommand::Create { name, preset, policy }) => {
            client.create_bucket(&name, &preset, &policy)?;
        }
        Command::Bucket(BucketCommand::Set { name, replicas, care, waiting }) => {
            client.set_copies(&name, replicas, &care, &waiting)?;
        }
        Command::Bucket(BucketCommand::List) => client.buckets()?,
        Command::Bucket(BucketCommand::Delete { name }) => client.delete_bucket(&name)?,
        Command::Layout(LayoutCommand::Show) => client.layout()?,
        Command::Layout(LayoutCommand::Plan { changes }) => client.plan(&changes)?,
        Command::Layout(LayoutCommand::Commit { changes, epoch, care, waiting }) => {
            client.commit(&changes, epoch, &care, &waiting)?;
        }
        Command::Layout(LayoutCommand::Revert) => client.revert()?,
        Command::Layout(LayoutCommand::Watch) => client.watch(None)?,
        Command::Drain { name, care, waiting } => {
            client.set_state(&name, NodeState::Drained, &care, &waiting)?;
        }
        Command::Restore { name, care, waiting } => {
            client.set_state(&name, NodeState::Active, &care, &waiting)?;
        }
        Command::Remove { name, lost, care, waiting } => {
            let state = if lost { NodeState::Lost } else { NodeState::Leaving };
            client.set_state(&name, state, &care, &waiting)?;
        }
        Command::Replace { dead, by, care, waiting } => client.replace(&dead, &by, &care, &waiting)?,
        Command::OkToStop { waiting } => return client.ok_to_stop(&waiting),
        Command::Recover { lost, place } => recover::run(&place.settings(own)?, &lost, cli.json)?,
        Command::Config { sources } => show_config(sources, own, cli.json)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "slipring", &mut script);
            output::bytes(&script)?;
        }
    }
    Ok(true)
}

fn show_config(sources: Sources, matches: &ArgMatches, is_json: bool) -> anyhow::Result<()> {
    let (_, origins) = sources.settings(matches)?;
    if is_json {
        say!("{}", serde_json::to_string(&origins)?);
        return Ok(());
    }
    let mut table = client::table(&["setting", "value", "from", "meaning"]);
    for origin in origins {
        table.add_row([origin.name, &origin.value.to_string(), origin.source, origin.help]);
    }
    say!("{table}");
    Ok(())
}

fn log_to_stderr(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| anyhow::anyhow!("log = \"{}\" is not a filter: {error}", settings.log))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Files and pipes keep what they are given, and nobody may read what is logged.
    let may_colour = std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    let logs = logs.with_ansi(may_colour && std::io::stderr().is_terminal()).log_internal_errors(false);
    if settings.log_format == "json" {
        logs.json().init();
    } else {
        logs.with_target(false).init();
    }
    Ok(())
}
