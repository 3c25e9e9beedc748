//! What it means for a ramp that another policy decides about it from now on.
//!
//! Another stages policy brings another table: it is admitted on record, with a sentence that says what happens. When a
//! judge or a stages policy is put out of charge, the one before it is in charge again, and may be laxer: it never
//! gives V2 more before a person has resumed.

use super::{controller::Controller, effects::Cause};
use crate::migration::event::{Event, Transition};
use cutover_model::port::{Kind, Phase};
use cutover_policy_host::slot::Slots;
use cutover_store::state::table::Table;

/// The table of the stages policy in charge; none if there is none that the host can read.
pub(super) fn table(slots: &Slots) -> Option<Table> {
    let installed = slots.get(Kind::Stages).installed()?;
    Some(Table::of(installed.label(), installed.policy.settings())).filter(|table| !table.stages.is_empty())
}

/// Why nothing goes up, if one of those whose policy was refused at start has another in charge.
pub(super) fn stands_in(slots: &Slots, refused: impl IntoIterator<Item = Kind>) -> Option<String> {
    let (kind, installed) = refused.into_iter().filter(|kind| lets_go_up(*kind)).find_map(|kind| {
        let installed = slots.get(kind).installed()?;
        Some((kind, installed))
    })?;
    Some(until_resumed(kind, &installed.label(), "the one of the configuration was refused"))
}

/// Whether a policy of this kind has a say in whether V2 gets more.
pub(super) const fn lets_go_up(kind: Kind) -> bool {
    matches!(kind, Kind::Stages | Kind::Rollback)
}

/// Why the share does not go up.
pub(super) fn until_resumed(kind: Kind, in_charge: &str, why: &str) -> String {
    format!(
        "{in_charge}, which was in charge before, is the {kind} policy again, and may be laxer ({why}); V2 gets no more until \
         a person resumes"
    )
}

impl Controller {
    /// Admits the table of the stages policy in charge, if it is another than the one in force.
    pub(super) async fn admit_table(&mut self, cause: Cause) {
        if let Some(table) = table(&self.parts.slots) {
            self.apply(Event::Tabled(table), cause).await;
        }
    }

    /// Pauses a ramp whose policy is not trusted to let it go up. It is tried until it is on record, and until then the
    /// stages policy is not asked.
    pub(super) async fn distrust(&mut self) {
        let Some(why) = self.trust.distrusted.take() else { return };
        if self.state.phase == Phase::Preparing {
            // Nothing goes up yet, and it will.
            self.trust.distrusted = Some(why);
        } else if self.state.is_staged() {
            let refused = self.apply(Event::Ordered(Transition::Pause), Cause::operator("host", &why)).await;
            self.trust.distrusted = refused.map(|_not_on_record| why);
        }
    }
}
