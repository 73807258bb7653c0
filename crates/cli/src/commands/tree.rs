//! `nestling tree`: all levels at a glance.

use std::env;

use clap::Args;
use nestling_api::v1;

use crate::{
    failure::Result,
    session::Session,
    text::{self, Table},
};

/// Show all levels: hosts, their machines, and the machines inside those
#[derive(Debug, Args)]
pub struct Tree {}

impl Tree {
    pub async fn run(self, session: &Session) -> Result {
        let tree = session.client().await?.tree().await?;
        session.printer.show(&tree, |tree| drawing(tree, &Branches::of_locale()))
    }
}

/// What the branches are drawn with.
struct Branches {
    middle: &'static str,
    last: &'static str,
    trunk: &'static str,
}

impl Branches {
    const BOXES: Self = Self { middle: "├─ ", last: "└─ ", trunk: "│  " };
    const ASCII: Self = Self { middle: "|- ", last: "`- ", trunk: "|  " };

    fn of_locale() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::BOXES } else { Self::ASCII }
    }
}

fn drawing(tree: &v1::Tree, branches: &Branches) -> String {
    let mut table = Table::bare().right(&[3, 4]);
    table.row([
        tree.host.clone(),
        tree.engine.to_uppercase(),
        text::count(tree.logical_processors, "processor"),
        String::new(),
        text::size(tree.memory_bytes),
    ]);
    machines(tree, branches, "", &mut table);
    table.text()
}

fn machines(tree: &v1::Tree, branches: &Branches, indent: &str, table: &mut Table) {
    for (i, vm) in tree.vms.iter().enumerate() {
        let is_last = i + 1 == tree.vms.len();
        let branch = if is_last { branches.last } else { branches.middle };
        let trunk = if is_last { "   " } else { branches.trunk };
        table.row(cells(vm, &format!("{indent}{branch}{}", vm.name)));
        if let Some(inside) = &vm.inside {
            machines(inside, branches, &format!("{indent}{trunk}"), table);
        }
    }
}

fn cells(vm: &v1::TreeVm, name: &str) -> [String; 6] {
    let runs = !matches!(vm.state, v1::VmState::Off | v1::VmState::Saved);
    let mut remarks = vec![vm.addresses.join(", ")];
    remarks.extend(vm.state_reason.iter().map(|why| format!("({why})")));
    remarks.extend(vm.inside_error.iter().map(|why| format!("(what is inside is not known: {why})")));
    remarks.retain(|r| !r.is_empty());
    [
        name.to_owned(),
        format!("{:?}", vm.state),
        text::count(vm.processor_count, "processor"),
        if runs { format!("{}%", vm.cpu_usage_percent) } else { String::new() },
        text::size(vm.memory_bytes),
        remarks.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, state: v1::VmState) -> v1::TreeVm {
        v1::TreeVm {
            name: name.to_owned(),
            state,
            state_reason: None,
            processor_count: 1,
            cpu_usage_percent: 3,
            memory_bytes: 2 << 30,
            addresses: Vec::new(),
            inside: None,
            inside_error: None,
        }
    }

    fn host(vms: Vec<v1::TreeVm>) -> v1::Tree {
        v1::Tree {
            host: "host".into(),
            engine: "tcg".into(),
            logical_processors: 2,
            memory_bytes: 24 << 30,
            vms,
        }
    }

    #[test]
    fn three_levels_stand_under_each_other() {
        let mut l2 = vm("L2", v1::VmState::Running);
        l2.addresses = vec!["192.168.100.10".into()];
        l2.memory_bytes = 128 << 20;
        let mut l1 = vm("Server2016", v1::VmState::Running);
        l1.addresses = vec!["10.99.0.2".into()];
        l1.inside = Some(Box::new(host(vec![l2, vm("Off", v1::VmState::Off)])));
        let mut hung = vm("hung", v1::VmState::Running);
        hung.inside_error = Some("it does not answer".into());
        let tree = host(vec![l1, hung]);
        assert_eq!(
            drawing(&tree, &Branches::BOXES),
            "\
host           TCG      2 processors      24.0 GB
├─ Server2016  Running  1 processor   3%   2.0 GB  10.99.0.2
│  ├─ L2       Running  1 processor   3%   128 MB  192.168.100.10
│  └─ Off      Off      1 processor        2.0 GB
└─ hung        Running  1 processor   3%   2.0 GB  (what is inside is not known: it does not answer)
"
        );
        assert!(drawing(&tree, &Branches::ASCII).is_ascii());
    }
}
