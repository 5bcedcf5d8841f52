//! What the components have written.

use std::{fs, time::Duration};

use nix::unistd::Pid;
use serde_json::Value;

use super::{Playground, PlaygroundError, traces};
use crate::{Component, awaiting};

impl Playground {
    /// What a component has written so far.
    ///
    /// # Errors
    /// [`PlaygroundError::File`].
    pub fn log(&self, component: Component) -> Result<String, PlaygroundError> {
        let path = self.setup.layout.log(component);
        fs::read_to_string(&path).map_err(|source| PlaygroundError::File { path, source })
    }

    /// The same as the JSON objects that its lines are; other lines are left out.
    ///
    /// # Errors
    /// [`PlaygroundError::File`].
    pub fn log_lines(&self, component: Component) -> Result<Vec<Value>, PlaygroundError> {
        let log = self.log(component)?;
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(lines.collect())
    }

    /// safe's audit lines.
    ///
    /// # Errors
    /// [`PlaygroundError::File`].
    pub fn audit(&self) -> Result<Vec<Value>, PlaygroundError> {
        let mut lines = self.log_lines(Component::Safe)?;
        lines.retain(|line| line.get("target").is_some_and(|target| target == "audit"));
        Ok(lines)
    }

    /// Waits until a line of a component's log satisfies `wanted`.
    ///
    /// # Errors
    /// [`PlaygroundError::TooLate`].
    pub async fn logs(
        &self,
        component: Component,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, PlaygroundError> {
        let what = format!("a line in the log of {component}");
        let found = || self.log_lines(component).ok()?.into_iter().find(&wanted);
        Ok(awaiting::value(&what, within, found).await?)
    }

    /// Where `needle` can be found that it should not be; see [I7]. Files below the folder that are
    /// neither sealed records nor volumes, and command lines and environments of all components.
    ///
    /// # Errors
    /// [`PlaygroundError::File`].
    pub fn traces_of(&self, needle: &[u8]) -> Result<Vec<String>, PlaygroundError> {
        let running = Component::RUNNING.into_iter();
        let pids = running.flat_map(|component| self.pids(component));
        let pids: Vec<Pid> = pids.collect();
        traces::find(&self.setup.layout, &pids, needle)
    }
}
