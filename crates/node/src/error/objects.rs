//! What is looked up by name, and what is said when it is not there, or already is.

/// What kinds of objects are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Vm,
    Switch,
    Nat,
    Mapping,
    Adapter,
    Drive,
    HostAdapter,
    HostAddress,
    Disk,
    Feature,
    Repository,
    Run,
    Point,
    Recovery,
    Proof,
    Job,
    Loan,
    MailServer,
}

pub fn not_found(object: Object, name: &str) -> String {
    let name = nestling_model::shown(name, 120);
    match object {
        Object::Vm => format!("Hyper-V was unable to find a virtual machine with name \"{name}\"."),
        Object::Switch => format!("Hyper-V was unable to find a virtual switch with name \"{name}\"."),
        Object::Nat => {
            format!("No matching MSFT_NetNat objects found with property 'Name' equal to '{name}'.")
        }
        Object::Mapping => {
            format!(
                "No matching MSFT_NetNatStaticMapping objects found with property 'StaticMappingID' equal to '{name}'."
            )
        }
        Object::HostAdapter => {
            format!("No MSFT_NetAdapter objects found with property 'Name' equal to '{name}'.")
        }
        Object::HostAddress => {
            format!(
                "No matching MSFT_NetIPAddress objects found with property 'IPAddress' equal to '{name}'."
            )
        }
        Object::Adapter => format!("the virtual machine has no network adapter {name}"),
        Object::Drive => format!("the virtual machine has no disk at {name}"),
        Object::Disk => format!("there is no disk {name}"),
        Object::Repository => format!("there is no repository \"{name}\""),
        Object::Run => format!("there is no run {name}"),
        Object::Point => format!("there is no recovery point {name}"),
        Object::Recovery => format!("there is no recovery {name}"),
        Object::Proof => format!("there is no proof {name}"),
        Object::Job => format!("there is no backup job \"{name}\""),
        Object::Loan => format!("no machine is lent to the host above as {name}"),
        Object::MailServer => "this host knows no mail server".to_owned(),
        Object::Feature => {
            format!("The target of the specified cmdlet cannot be found: there is no feature named '{name}'.")
        }
    }
}

pub fn exists(object: Object, name: &str) -> String {
    match object {
        Object::Vm => format!("a virtual machine with the name \"{name}\" exists already"),
        Object::Switch => format!("a virtual switch with the name \"{name}\" exists already"),
        Object::Nat => format!("a NAT network with the name \"{name}\" exists already"),
        Object::Mapping => format!("the external port {name} has a static mapping already"),
        Object::Adapter => format!("the MAC address {name} belongs to another network adapter"),
        Object::HostAddress => format!("Instance MSFT_NetIPAddress already exists: {name}"),
        Object::Repository => format!("a repository with the name \"{name}\" exists already"),
        Object::Drive
        | Object::HostAdapter
        | Object::Disk
        | Object::Feature
        | Object::Run
        | Object::Point
        | Object::Recovery
        | Object::Proof
        | Object::Job
        | Object::Loan
        | Object::MailServer => {
            format!("{name} exists already")
        }
    }
}
