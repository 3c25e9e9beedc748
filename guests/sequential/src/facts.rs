//! The small parts of what is remembered, in one text: where the migration stands, and what tempers evidence.

use cutover_policy::{
    Check, Phase,
    memory::{Fields, Packed, Text},
    packed,
};

use crate::{
    METRICS,
    ailing::Ailing,
    dispersion::Dispersion,
    outage::Outage,
    process::{Entry, Plain, Units},
    sessions::Sessions,
};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    place: Option<Place>,
    /// Stages of this ramp before this one.
    pub(crate) stages: u32,
    pub(crate) outage: Outage,
    pub(crate) ailing: Ailing,
    pub(crate) sessions: Sessions,
    /// Clusters of bad units, one for each metric. They outlive a stage: what calls are like does not depend on a
    /// share.
    pub(crate) clusters: [Dispersion; METRICS],
    /// Metrics of which the latest span alone would be a reason to warn, a bit each.
    pub(crate) doubts: u32,
    /// The same of fewer statuses, and of both pools together.
    pub(crate) differs: bool,
    pub(crate) ill: bool,
}

/// What tells one stage from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    mirrored: bool,
    stage: u32,
    started_ms: u64,
}

impl Facts {
    /// Goes to where the migration stands; whether that is another stage.
    pub(crate) fn arrive(&mut self, check: &Check) -> bool {
        let mirrored = check.phase == Phase::Shadow;
        let place = Place { mirrored, stage: check.stage, started_ms: check.stage_started_ms };
        if self.place == Some(place) {
            return false;
        }
        let begins = check.phase == Phase::Ramping && check.stage == 0;
        let goes_on = !mirrored && !begins && self.place.is_some_and(|before| !before.mirrored);
        self.stages = if goes_on { self.stages.saturating_add(1) } else { 0 };
        self.place = Some(place);
        (self.outage, self.ailing, self.doubts, self.differs, self.ill) = Default::default();
        true
    }
}

impl Dispersion {
    /// Adds the bad units of a span, if V1 was called.
    pub(crate) fn add_entries(&mut self, entries: &[Entry]) {
        let tables = entries.iter().filter_map(|entry| match entry.units {
            Units::Beside(table) if table.n1 > 0 => Some([table.x1, table.x2]),
            Units::Beside(_) | Units::Alone { .. } => None,
        });
        if let Some(bad) = tables.reduce(|[a1, a2], [b1, b2]| [a1.saturating_add(b1), a2.saturating_add(b2)]) {
            self.add(bad);
        }
    }
}

impl Packed for Facts {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        let place = self.place.unwrap_or(Place { mirrored: false, stage: 0, started_ms: 0 });
        text.number(self.place.is_some().into()).number(place.mirrored.into());
        text.number(place.stage.into()).number(place.started_ms).number(self.stages.into());
        text.number(self.doubts.into()).number(self.differs.into()).number(self.ill.into());
        self.outage.write(text);
        self.ailing.write(text);
        self.sessions.write(text);
        for clusters in &self.clusters {
            clusters.write(text);
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [placed, mirrored, stage, started_ms, stages, doubts, differs, ill] = fields.numbers()?;
        let place = Place { mirrored: mirrored != 0, stage: stage.try_into().ok()?, started_ms };
        let (outage, ailing) = (Outage::read(fields)?, Ailing::read(fields)?);
        let sessions = Sessions::read(fields)?;
        let mut clusters = [Dispersion::default(); METRICS];
        for own in &mut clusters {
            *own = Dispersion::read(fields)?;
        }
        Some(Self {
            place: (placed != 0).then_some(place),
            stages: stages.try_into().ok()?,
            outage,
            ailing,
            sessions,
            clusters,
            doubts: doubts.try_into().ok()?,
            differs: differs != 0,
            ill: ill != 0,
        })
    }
}

packed!(Facts);

impl From<Plain> for Facts {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}
