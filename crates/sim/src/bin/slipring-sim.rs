//! Runs simulated clusters from the command line; `cargo xtask sim` is the way to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use slipring_sim::{Mutant, Options, Plan, Report, run, run_all, shrink};

/// Runs that shrinking a failure may take.
const SHRINK_TRIES: usize = 60;

/// Runs whole simulated clusters through storms of faults and checks every promise.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Cli {
    /// Replay one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Use the faults in this file, as a failing run leaves them, instead of drawing them.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// So many hosts instead of 3, and 5 for every fifth seed.
    #[arg(long)]
    hosts: Option<usize>,
    /// Plant a mistake in every node, to see it caught: a name such as CountHintAsAck.
    #[arg(long)]
    mutant: Option<String>,
    /// Print the story of the run, not only that of a failure.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Leave failing plans as they are instead of looking for the fewest faults that still fail.
    #[arg(long)]
    no_shrink: bool,
    /// Where failing runs leave their story and plan.
    #[arg(long, default_value = "target/sim")]
    stories: PathBuf,
    /// Simulations at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    simulated: Duration,
    operations: usize,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<Report>,
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; how many runs broke a promise.
fn start(cli: &Cli) -> Result<usize, String> {
    let plan = cli.plan.as_deref().map(read_plan).transpose()?;
    let mutant = cli.mutant.as_deref().map(mutant).transpose()?;
    let options = Options { hosts: cli.hosts, plan, mutant, ..Options::default() };
    let sum = match cli.seed {
        Some(seed) => one(seed, &options, cli.trace),
        None => many(cli, &options),
    };
    for report in &sum.failures {
        tell(report, &options, cli)?;
    }
    Ok(sum.failures.len())
}

fn one(seed: u64, options: &Options, is_traced: bool) -> Sum {
    let report = run(seed, options);
    if is_traced {
        report.trace.iter().for_each(|line| println!("{line}"));
    }
    println!("{report}");
    let failures = Some(report).into_iter().filter(|report| report.verdict.is_err()).collect();
    Sum { failures, ..Sum::default() }
}

fn many(cli: &Cli, options: &Options) -> Sum {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left  {msg}");
    let bar = ProgressBar::new(cli.seeds).with_style(style.expect("the template is valid"));
    let (mut sum, began) = (Sum::default(), Instant::now());
    run_all(cli.from..cli.from + cli.seeds, cli.threads, options, |report| {
        sum.add(report);
        bar.set_message(format!("{} failed", sum.failures.len()));
        bar.inc(1);
    });
    bar.finish_and_clear();
    sum.print(began.elapsed());
    sum
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.simulated += Duration::from_millis(report.simulated_ms);
        self.operations += report.operations;
        for (what, times) in &report.counts {
            *self.counts.entry(what).or_default() += times;
        }
        if report.verdict.is_err() {
            self.failures.push(report);
        }
    }

    fn print(&self, took: Duration) {
        println!("{:>12}  seeds, {} failed", self.runs, self.failures.len());
        println!("{:>12.0}  seeds a minute", self.runs as f64 * 60.0 / took.as_secs_f64());
        let hours = self.simulated.as_secs_f64() / took.as_secs_f64();
        println!("{hours:>12.0}  simulated hours an hour");
        println!("{:>12}  operations", self.operations);
        self.counts.iter().for_each(|(what, times)| println!("{times:>12}  {what}"));
    }
}

/// Leaves the story of a failing run behind, shrunk, and says how to replay it.
fn tell(report: &Report, options: &Options, cli: &Cli) -> Result<(), String> {
    let faults = report.plan.faults.len();
    let again = |seed, plan| run(seed, &Options { plan: Some(plan), ..options.clone() });
    let tries = if cli.no_shrink { 0 } else { SHRINK_TRIES };
    let least = shrink(report.clone(), tries, again);
    let failed = |error: std::io::Error| format!("{}: {error}", cli.stories.display());
    fs::create_dir_all(&cli.stories).map_err(failed)?;
    let story = cli.stories.join(format!("seed-{}.txt", least.seed));
    let plan = cli.stories.join(format!("seed-{}.plan.json", least.seed));
    let json = serde_json::to_string_pretty(&least.plan).expect("a plan is plain data");
    fs::write(&plan, json).map_err(failed)?;
    fs::write(&story, least.story()).map_err(failed)?;
    if let Err(violation) = &least.verdict {
        println!("\nseed {} breaks a promise: {violation}", least.seed);
    }
    println!("  {} of {faults} faults are enough for it:", least.plan.faults.len());
    least.plan.faults.iter().for_each(|(at, fault)| println!("    {at:>6} ms  {fault:?}"));
    println!("  the story: {}", story.display());
    println!("  replay it: cargo xtask sim --seed {} --plan {} --trace", least.seed, plan.display());
    Ok(())
}

fn read_plan(path: &Path) -> Result<Plan, String> {
    let json = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&json).map_err(|error| format!("{} is no plan: {error}", path.display()))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let all = || Mutant::ALL.into_iter();
    let named = all().find(|mutant| format!("{mutant:?}").eq_ignore_ascii_case(name));
    named.ok_or_else(|| {
        let names: Vec<String> = all().map(|mutant| format!("{mutant:?}")).collect();
        format!("there is no mutant \"{name}\"; choose one of {}", names.join(", "))
    })
}
