//! What `-n` tells of a command that does one thing: what it would do. Found by the checks of the real run, whose report has every
//! key of the plan with the same value.

use serde::Serialize;

use cuttle::Result;
use cuttle::store::Ledger;

use super::Context;
use super::report::{Report, ledger_line};

/// What a command would do.
pub trait Plan: Serialize {
    /// In words: `project tenant-a would be made`.
    fn told(&self) -> String;
}

#[derive(Serialize)]
struct Planned<'a, P> {
    dry_run: bool,
    plan: &'a P,
    ledger: &'a Ledger,
}

impl<P: Plan> Report for Planned<'_, P> {
    const MESSAGE_TYPE: &'static str = "plan";

    fn answer(&self) -> String {
        format!("dry run: {}", self.plan.told())
    }

    fn summary(&self) -> String {
        ledger_line(self.ledger)
    }
}

/// Tells a plan, and what finding it out asked of the store.
pub fn tell(context: &Context<'_>, plan: &impl Plan, ledger: &Ledger) -> Result<()> {
    context.ui.report(&Planned { dry_run: true, plan, ledger })
}
