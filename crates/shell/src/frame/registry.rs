//! The cmdlets that a shell knows.

use super::cmdlet::{Cmdlet, Context};
use crate::format::View;
use std::collections::HashMap;
use std::sync::Arc;

pub struct Registry<C: Context> {
    cmdlets: Vec<Arc<Cmdlet<C>>>,
    /// Names and aliases in lower case.
    by_name: HashMap<String, usize>,
}

impl<C: Context> Default for Registry<C> {
    fn default() -> Self {
        Self { cmdlets: Vec::new(), by_name: HashMap::new() }
    }
}

impl<C: Context> Registry<C> {
    /// The language's own cmdlets and nothing else.
    pub fn with_core() -> Self {
        let mut registry = Self::default();
        registry.add(crate::cmdlets_core::all());
        registry
    }

    /// Adds cmdlets. The first owner of a name keeps it.
    pub fn add(&mut self, cmdlets: impl IntoIterator<Item = Cmdlet<C>>) {
        for cmdlet in cmdlets {
            let index = self.cmdlets.len();
            for name in std::iter::once(&cmdlet.name).chain(cmdlet.aliases) {
                self.by_name.entry(name.to_ascii_lowercase()).or_insert(index);
            }
            self.cmdlets.push(Arc::new(cmdlet));
        }
    }

    /// The cmdlet of that name or alias, in any case, with its module before it or not.
    pub fn find(&self, name: &str) -> Option<&Arc<Cmdlet<C>>> {
        let name = name.rsplit_once('\\').map_or(name, |(_, name)| name);
        self.by_name.get(&name.to_ascii_lowercase()).map(|index| &self.cmdlets[*index])
    }

    /// All cmdlets by name.
    pub fn cmdlets(&self) -> Vec<&Arc<Cmdlet<C>>> {
        let mut all: Vec<_> = self.cmdlets.iter().collect();
        all.sort_by_key(|cmdlet| cmdlet.name.to_ascii_lowercase());
        all
    }

    /// Default views by type.
    pub(crate) fn views(&self) -> HashMap<&'static str, &'static View> {
        self.cmdlets.iter().flat_map(|cmdlet| cmdlet.views).map(|view| (view.type_name, *view)).collect()
    }
}
