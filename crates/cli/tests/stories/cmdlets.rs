//! Every cmdlet's own examples, on a host that has one of each thing.

use crate::nest::Nest;

#[test]
fn the_examples_in_the_help_work() {
    let nest = Nest::new("examples");
    nest.ps("New-VMSwitch -Name S -SwitchType Internal | Out-Null
         New-NetNat -Name N -InternalIPInterfaceAddressPrefix 192.168.33.0/24 | Out-Null
         New-VM -Name V -NoVHD -SwitchName S | Out-Null")
        .ok();
    let registry = nestling_shell::cmdlets::registry();
    let mut tried = 0;
    for cmdlet in registry.cmdlets() {
        for example in cmdlet.examples {
            let said = nest.ps(example.code);
            assert_eq!(said.status, 0, "{}: {}\n{}", cmdlet.name, example.code, said.stderr);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried} examples");
}

#[test]
fn tags_come_and_go_by_cmdlets() {
    let nest = Nest::new("tags");
    nest.ps("New-VM -Name A -NoVHD -Tag prod, Web | Out-Null; New-VM -Name B -NoVHD | Out-Null").ok();
    let tags = |name: &str| nest.ps(&format!("(Get-VM {name}).Tags -join ','")).ok().trim().to_owned();
    assert_eq!((tags("A"), tags("B")), ("prod,Web".to_owned(), String::new()));
    nest.ps("Get-VM | Set-VM -AddTag PROD, gold -RemoveTag web").ok();
    assert_eq!((tags("A"), tags("B")), ("gold,prod".to_owned(), "gold,PROD".to_owned()));
    nest.ps("Set-VM -Name B -RemoveTag Gold").ok();
    let gold = nest.ps("Get-VM | Where-Object Tags -contains Gold | ForEach-Object { $_.Name }").ok();
    assert_eq!(gold.trim(), "A");
    let shown = nest.run(&["vm", "show", "A"]).ok();
    assert!(shown.contains("gold, prod"), "{shown}");
    let refused = nest.ps("Set-VM -Name A -AddTag 'a b'").fails();
    assert!(refused.contains("letters, digits"), "{refused}");
}

/// What administrators type first must be there, whoever adds what else.
#[test]
fn every_cmdlet_of_the_walkthrough_explains_itself() {
    let nest = Nest::new("help");
    let wanted = "Get-VM New-VM Start-VM Stop-VM Restart-VM Save-VM Suspend-VM Resume-VM Rename-VM Remove-VM Set-VM \
        Get-VMProcessor Set-VMProcessor Get-VMMemory Set-VMMemory Add-VMNetworkAdapter Get-VMNetworkAdapter \
        Set-VMNetworkAdapter Connect-VMNetworkAdapter Disconnect-VMNetworkAdapter Remove-VMNetworkAdapter New-VMSwitch \
        Get-VMSwitch Set-VMSwitch Remove-VMSwitch New-VHD Add-VMHardDiskDrive Get-VMHardDiskDrive \
        Remove-VMHardDiskDrive Get-NetAdapter New-NetIPAddress Get-NetIPAddress Remove-NetIPAddress New-NetNat Get-NetNat \
        Remove-NetNat Add-NetNatStaticMapping Get-NetNatStaticMapping Remove-NetNatStaticMapping Get-VMHost \
        Update-VMVersion Install-WindowsFeature Get-WindowsFeature Invoke-Command Enter-PSSession";
    for name in wanted.split_whitespace() {
        let help = nest.ps(&format!("Get-Help {name}")).ok();
        assert!(help.contains(name), "{name}: {help}");
    }
}
