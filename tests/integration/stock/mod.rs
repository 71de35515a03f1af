//! Courier's pools and SPDK's own initiator, side by side on the same faults: where stock rides through, so do we.
//!
//! For each fault a `courier_tgt` with a pool and a stock `spdk_tgt` with a controller of `bdev_nvme` show the same
//! namespace to the same client, whose data is checked. Both reconnect without end, and stock retries without end.
//! The whole takes some minutes, and prints a table: `scripts/faults-compare.sh`.

mod faults;
mod side;
mod traffic;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nvme_spec::StatusCode;
use serial_test::serial;

use self::faults::{Fault, Scene, When};
use self::side::{Settings, Side, Which};
use self::traffic::{Met, Traffic};
use crate::support::secs;

/// How long I/O may take after a fault to go well again; what takes longer is said to hang.
const LIMIT: Duration = secs(20);
/// How long a deletion may take, and the end of a process.
const END_LIMIT: Duration = secs(5);
/// What is still waited for, to tell of it.
const PATIENCE: Duration = secs(10);
/// By how much any of it may be later than stock's.
const NOISE: Duration = secs(1);

/// What became of the I/O, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RodeThrough,
    /// Some failed; after the fault it went on.
    FailedMeanwhile,
    /// It fails for good.
    Failed,
    /// It has no answer.
    Hung,
    /// The data is not what it has to be.
    WrongData,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::RodeThrough => "rode through",
            Self::FailedMeanwhile => "failed, then went on",
            Self::Failed => "failed for good",
            Self::Hung => "hung",
            Self::WrongData => "**wrong data**",
        }
    }
}

/// How one of the two did.
#[derive(Debug)]
struct Result {
    outcome: Outcome,
    well_after: Option<Duration>,
    longest_gap: Duration,
    errors: BTreeMap<StatusCode, u32>,
    /// Set if the process runs after the fault.
    alive: bool,
    deletion: Option<Duration>,
    end: Option<Duration>,
    remark: Option<String>,
}

impl Result {
    fn new(well: bool, met: Met, alive: bool, remark: Option<String>) -> Self {
        let failed = !met.errors.is_empty();
        let outcome = if met.wrong_data.is_some() || remark.is_some() {
            Outcome::WrongData
        } else if well {
            if failed { Outcome::FailedMeanwhile } else { Outcome::RodeThrough }
        } else if failed {
            Outcome::Failed
        } else {
            Outcome::Hung
        };
        let well_after = met.well_after();
        let Met { errors, longest_gap, wrong_data, .. } = met;
        Self {
            outcome,
            well_after,
            longest_gap,
            errors,
            alive,
            deletion: None,
            end: None,
            remark: remark.or(wrong_data),
        }
    }

    /// Returns one whose bdev never came.
    fn nothing(alive: bool) -> Self {
        let (well_after, longest_gap, errors) = (None, Duration::ZERO, BTreeMap::new());
        let remark = Some("no bdev".to_owned());
        Self { outcome: Outcome::Hung, well_after, longest_gap, errors, alive, deletion: None, end: None, remark }
    }

    fn row(&self, fault: &str, which: Which) -> String {
        let time = |time: Option<Duration>| {
            time.map_or_else(|| "**never**".to_owned(), |t| format!("{:.2} s", t.as_secs_f64()))
        };
        let errors: u32 = self.errors.values().sum();
        let kinds: Vec<String> =
            self.errors.keys().map(|code| format!("{:x}h/{:02x}h", code.sct().0, code.sc())).collect();
        let mut outcome = self.outcome.as_str().to_owned();
        if !self.alive {
            outcome.push_str(", **process died**");
        }
        if let Some(remark) = &self.remark {
            let _ = write!(outcome, " ({remark})");
        }
        let errors = if errors == 0 { "0".to_owned() } else { format!("{errors}: {}", kinds.join(", ")) };
        format!(
            "| {fault} | {which:?} | {outcome} | {} | {:.2} s | {errors} | {} | {} |\n",
            time(self.well_after),
            self.longest_gap.as_secs_f64(),
            time(self.deletion),
            time(self.end)
        )
    }

    /// Returns what is worse about it than about another.
    fn worse_than(&self, stock: &Self, fault: &Fault) -> Vec<String> {
        let mut worse = Vec::new();
        if self.outcome > stock.outcome {
            worse.push(format!("I/O {}, where stock's {}", self.outcome.as_str(), stock.outcome.as_str()));
        }
        if !self.alive {
            worse.push("the process died".to_owned());
        }
        let late =
            |ours: Option<Duration>, theirs: Option<Duration>, least: Duration, more: Duration| match (ours, theirs) {
                (Some(ours), Some(theirs)) => ours > (theirs + more).max(least),
                (None, Some(_)) => true,
                (Some(ours), None) => !least.is_zero() && ours > least,
                (None, None) => !least.is_zero(),
            };
        // Who takes a stranger for the disk is well at once, and better not.
        let comparable = stock.outcome != Outcome::WrongData;
        if comparable && late(self.well_after, stock.well_after, Duration::ZERO, fault.later + NOISE) {
            worse.push(format!("well again after {:?}, stock's after {:?}", self.well_after, stock.well_after));
        }
        for (what, ours, theirs) in [("deletion", self.deletion, stock.deletion), ("SIGTERM", self.end, stock.end)] {
            if late(ours, theirs, END_LIMIT, NOISE) {
                worse.push(format!("{what} took {ours:?}, stock's {theirs:?}"));
            }
        }
        worse
    }
}

/// Has one of the two meet a fault.
fn meet(which: Which, fault: &Fault) -> Result {
    let mut scene = (fault.scene)();
    let settings = Settings { keep_alive_ms: fault.keep_alive_ms, digests: fault.digests };
    let side = if fault.when == When::AtStart {
        let side = Side::configured(which, scene.port, settings);
        sleep(fault.lasts);
        (fault.end)(&mut scene);
        side
    } else {
        Side::connected(which, scene.port, settings)
    };
    if !side.wait_for_bdev(LIMIT) {
        let mut result = Result::nothing(side.is_alive());
        (result.deletion, result.end) = (side.delete(PATIENCE), side.end(PATIENCE));
        return result;
    }
    let traffic = Traffic::start(&side.show());
    if fault.when != When::AtStart {
        sleep(Duration::from_millis(300));
        (fault.begin)(&mut scene);
        sleep(fault.lasts);
        (fault.end)(&mut scene);
    }
    let result = conclude(&side, traffic, scene, fault);
    log::debug!("{which:?}: {result:?}\n{}", side.app.process.tail());
    result
}

fn conclude(side: &Side, traffic: Traffic, mut scene: Scene, fault: &Fault) -> Result {
    traffic.fault_ended();
    let well = traffic.wait_until_well(LIMIT);
    // What is late comes soon.
    sleep(Duration::from_millis(300));
    let alive = side.is_alive();
    let mut result = Result::new(well, traffic.conclude(), alive, scene.remark.take());
    if fault.when == When::AtDeletionToo {
        (fault.begin)(&mut scene);
        sleep(Duration::from_millis(100));
    }
    result.deletion = side.delete(PATIENCE);
    let driver = traffic.stop();
    result.end = side.end(PATIENCE);
    drop(driver);
    if fault.when == When::AtDeletionToo {
        // A target that is stopped cannot be ended.
        (fault.end)(&mut scene);
    }
    result
}

/// Has both meet all these faults; returns the table, and in what we are worse.
fn compare<'a>(faults: impl Iterator<Item = &'a Fault>) -> (String, Vec<String>) {
    let mut table = "| fault | | I/O | well again after | longest gap | errors | deletion | SIGTERM |\n\
        |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut worse = Vec::new();
    for fault in faults {
        let (stock, courier) = (meet(Which::Stock, fault), meet(Which::Courier, fault));
        let rows = stock.row(fault.name, Which::Stock) + &courier.row("", Which::Courier);
        print!("{rows}");
        table.push_str(&rows);
        worse.extend(courier.worse_than(&stock, fault).into_iter().map(|what| format!("{}: {what}", fault.name)));
    }
    (table, worse)
}

#[test]
#[serial]
fn short_faults_are_met_no_worse_than_by_stock() {
    let (table, worse) = compare(faults::all().iter().filter(|fault| fault.short));
    assert!(worse.is_empty(), "worse than stock:\n{}\n{table}", worse.join("\n"));
}

/// `COURIER_FAULTS` chooses those whose name has that in it; `COURIER_FAULTS_TABLE` is a file for the table.
#[test]
#[serial]
#[ignore = "takes minutes"]
fn all_faults_are_met_no_worse_than_by_stock() {
    let chosen = env::var("COURIER_FAULTS").unwrap_or_default();
    let all = faults::all();
    let exact = all.iter().any(|fault| fault.name == chosen);
    let is_chosen = |fault: &&Fault| if exact { fault.name == chosen } else { fault.name.contains(&chosen) };
    assert!(all.iter().any(|fault| is_chosen(&fault)), "no fault has {chosen:?} in its name");
    let (table, worse) = compare(all.iter().filter(is_chosen));
    if let Some(file) = env::var_os("COURIER_FAULTS_TABLE") {
        fs::write(&file, &table).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    assert!(worse.is_empty(), "worse than stock:\n{}\n{table}", worse.join("\n"));
}
