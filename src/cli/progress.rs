//! Progress on the terminal: a bar with rate and time left. Without a terminal, or when quiet, only notices are shown.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::cli::render::Output;
use crate::progress::{Monitor, Notice, Phase, StopFlag};

/// Shows what the core reports.
pub struct Bars {
    bar: Mutex<Option<(Phase, ProgressBar)>>,
    show: bool,
    output: Output,
    stop: Arc<StopFlag>,
    notices: AtomicU64,
}

impl Bars {
    /// Bars on standard error, if it is a terminal.
    pub fn new(output: Output, stop: Arc<StopFlag>) -> Self {
        let show = !output.quiet && !output.json && std::io::stderr().is_terminal();
        Bars { bar: Mutex::new(None), show, output, stop, notices: AtomicU64::new(0) }
    }

    /// Where a wish to stop is seen, for another view of the same run.
    pub fn stop(&self) -> Arc<StopFlag> {
        self.stop.clone()
    }

    /// Prints while the bar is out of the way.
    pub fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        match self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some((_, bar)) => bar.suspend(print),
            None => print(),
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some((_, bar)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            act(bar);
        }
    }
}

/// What is done in a phase, for people.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Index => "indexing",
        Phase::Backup => "backing up",
        Phase::Restore => "restoring",
        Phase::Check => "checking",
        Phase::ReadData => "reading back",
        Phase::Mark => "following",
        Phase::Sweep => "rewriting",
        Phase::Search => "searching",
        Phase::Compare => "comparing",
    }
}

/// Whether the units of a phase are bytes; else they are items.
pub(super) fn counts_bytes(phase: Phase) -> bool {
    matches!(phase, Phase::Backup | Phase::Restore | Phase::ReadData | Phase::Sweep)
}

fn style(phase: Phase, has_total: bool) -> ProgressStyle {
    let template = match (counts_bytes(phase), has_total) {
        (true, true) => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left {wide_msg}",
        (true, false) => "{prefix} {spinner} {bytes} {bytes_per_sec} {elapsed} {wide_msg}",
        (false, true) => "{prefix} [{bar:30}] {pos}/{len} {rate} {eta} left {wide_msg}",
        (false, false) => "{prefix} {spinner} {pos} {rate} {elapsed} {wide_msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // What cannot be drawn is drawn the next time.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    })
}

impl Monitor for Bars {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        if !self.show {
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        bar.set_style(style(phase, total.is_some()));
        bar.set_prefix(word(phase));
        // At once: what is going on is known before the first unit is done.
        bar.tick();
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some((phase, bar));
    }

    fn total(&self, total: u64) {
        if let Some((phase, bar)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            bar.set_style(style(*phase, true));
            bar.set_length(total);
        }
    }

    fn wants_total(&self) -> bool {
        self.show
    }

    fn advance(&self, units: u64) {
        self.with_bar(|bar| bar.inc(units));
    }

    fn item(&self, name: &str) {
        self.with_bar(|bar| bar.set_message(name.to_owned()));
    }

    fn action(&self, action: &'static str, path: &str) {
        // Whoever closed our output is told by the result that cannot be printed either.
        let _ = self.output.object("action", serde_json::json!({ "action": action, "path": path }));
        self.suspended(|| drop(self.output.line(&format!("{action} {path}"))));
    }

    fn end(&self) {
        if let Some((_, bar)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    fn notice(&self, notice: Notice) {
        self.notices.fetch_add(1, Ordering::SeqCst);
        self.suspended(|| self.output.notice(&notice));
    }

    fn interrupted(&self) -> bool {
        self.stop.is_set()
    }
}
