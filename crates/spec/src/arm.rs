//! An arm: a method with its settings, and the grid or search space over them.

use crate::method::MethodSettings;
use crate::search::{SampledSettings, Search, SearchDimension};
use crate::values::value_text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// A method with its settings, and the grid or space that is searched over them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arm {
    #[serde(flatten)]
    pub(crate) settings: Table,
    pub search: Search,
    pub(crate) grid: BTreeMap<String, Vec<Value>>,
    pub(crate) space: BTreeMap<String, SearchDimension>,
}

/// One setting of an arm.
#[derive(Debug, Clone)]
pub struct ArmPoint {
    /// `beta=0.1`, with the other axes of the grid after it; `default` where there is no grid.
    pub label: String,
    /// Its settings that differ from the arm's.
    pub settings: SampledSettings,
    pub method: MethodSettings,
}

/// The unit of work of one worker.
#[derive(Debug, Clone)]
pub struct Cell {
    pub arm: String,
    pub point: ArmPoint,
    pub seed: u64,
    /// Whether it belongs to the search for settings, not to the comparison.
    pub tuning: bool,
}

impl Cell {
    /// For the user, and in a run's manifest: `ppo beta=0.1, seed 3`.
    pub fn label(&self) -> String {
        format!("{} {}, seed {}", self.arm, self.point.label, self.seed)
    }
}

impl Arm {
    /// The grid's axes and how many values each has.
    pub fn axes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.grid.iter().map(|(axis, values)| (axis.as_str(), values.len()))
    }

    /// Number of grid points, or an upper bound on the corners of the space; computed without building any.
    pub(crate) fn max_points(&self) -> usize {
        let axes = self.grid.values().map(Vec::len).chain(self.space.values().map(|axis| axis.ends().len()));
        axes.fold(1, usize::saturating_mul)
    }

    /// Whether these settings are valid for this arm; those of an earlier experiment, or of a damaged file, may not be.
    pub fn fits(&self, settings: &SampledSettings) -> bool {
        let mut table = self.settings.clone();
        table.extend(settings.clone());
        table.try_into::<MethodSettings>().is_ok()
    }

    /// The search space.
    pub fn space(&self) -> &BTreeMap<String, SearchDimension> {
        &self.space
    }

    /// The dimensions of the space that are always active, then those that depend on them.
    fn dimensions_in_order(&self) -> impl Iterator<Item = (&String, &SearchDimension)> {
        let with = |conditional: bool| self.space.iter().filter(move |(_, axis)| axis.when.is_empty() != conditional);
        with(false).chain(with(true))
    }

    /// A point of the space: `share` gives each setting's position on its axis, in [0, 1). Inactive settings are left out.
    pub fn draw(&self, mut share: impl FnMut(&str, &SearchDimension) -> f64) -> SampledSettings {
        let mut drawn = SampledSettings::new();
        for (name, axis) in self.dimensions_in_order() {
            if axis.is_active(&drawn, &self.settings) {
                let value = axis.at(share(name, axis));
                drawn.insert(name.clone(), value);
            }
        }
        drawn
    }

    /// The points on which settings are checked: those of the grid, or the corners of the space.
    pub fn representative_points(&self) -> Vec<ArmPoint> {
        if self.space.is_empty() {
            return self.grid_settings().iter().map(|settings| self.point(settings)).collect();
        }
        let mut corners = vec![SampledSettings::new()];
        for (name, axis) in self.dimensions_in_order() {
            let extend = |corner: SampledSettings| match axis.is_active(&corner, &self.settings) {
                false => vec![corner],
                true => axis.ends().into_iter().map(|end| with_setting(&corner, name, end)).collect(),
            };
            corners = corners.into_iter().flat_map(extend).collect();
        }
        corners.iter().map(|settings| self.point(settings)).collect()
    }

    /// The settings of each grid point: the Cartesian product of the axes, the last axis fastest.
    pub fn grid_settings(&self) -> Vec<SampledSettings> {
        let mut points = vec![SampledSettings::new()];
        for (axis, values) in &self.grid {
            let extend = |point: SampledSettings| -> Vec<SampledSettings> {
                values.iter().map(|value| with_setting(&point, axis, value.clone())).collect()
            };
            points = points.into_iter().flat_map(extend).collect();
        }
        points
    }

    /// The arm with some settings replaced.
    pub fn point(&self, settings: &SampledSettings) -> ArmPoint {
        let parts: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={}", value_text(value))).collect();
        let mut table = self.settings.clone();
        table.extend(settings.clone());
        ArmPoint {
            label: if parts.is_empty() { "default".into() } else { parts.join(",") },
            settings: settings.clone(),
            method: table.try_into().expect("the document checked every key, type and choice of an arm"),
        }
    }
}

fn with_setting(point: &SampledSettings, name: &str, value: Value) -> SampledSettings {
    let mut point = point.clone();
    point.insert(name.into(), value);
    point
}
