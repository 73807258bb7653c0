use proptest::prelude::*;

use super::*;

/// As VirtualBox writes one, shortened.
const VIRTUALBOX: &str = r##"<?xml version="1.0"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References><File ovf:id="file1" ovf:href="Web-disk001.vmdk"/><File ovf:id="file2" ovf:href="cd.iso"/></References>
  <DiskSection><Info>x</Info>
    <Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
    <Disk ovf:capacity="1048576" ovf:diskId="empty"/>
  </DiskSection>
  <NetworkSection><Info/><Network ovf:name="LAN"/></NetworkSection>
  <VirtualSystem ovf:id="Web">
    <AnnotationSection><Info/><Annotation>two
lines</Annotation></AnnotationSection>
    <VirtualHardwareSection>
      <System><vssd:VirtualSystemIdentifier xmlns:vssd="u">Web</vssd:VirtualSystemIdentifier></System>
      <Item><rasd:ElementName>2 CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
      <Item><rasd:Address>1</rasd:Address><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>5</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:ElementName>disk1</rasd:ElementName><rasd:HostResource>/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>5</rasd:InstanceID><rasd:Parent>4</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
      <Item><rasd:ElementName>disk2</rasd:ElementName><rasd:HostResource>ovf:/disk/empty</rasd:HostResource><rasd:InstanceID>6</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType></Item>
      <Item><rasd:Connection>LAN</rasd:Connection><rasd:ElementName>eth0</rasd:ElementName><rasd:InstanceID>7</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></Item>
      <Item><rasd:ElementName>sound</rasd:ElementName><rasd:InstanceID>8</rasd:InstanceID><rasd:ResourceType>35</rasd:ResourceType></Item>
      <Item><rasd:ElementName>cd</rasd:ElementName><rasd:HostResource>/file/file2</rasd:HostResource><rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceType>15</rasd:ResourceType></Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>"##;

#[test]
fn a_machine_of_virtualbox_is_read() {
    let machine = read(VIRTUALBOX.as_bytes()).expect("a machine");
    assert_eq!((machine.name.as_str(), machine.notes.as_str()), ("Web", "two\nlines"));
    assert_eq!((machine.processors, machine.memory_bytes, machine.id), (2, 1 << 30, None));
    let disk = Disk {
        controller: Controller::Ide,
        location: 3,
        file: "Web-disk001.vmdk".into(),
        format: Some(ImageFormat::Vmdk),
        read_only: false,
        size_bytes: 8 << 30,
    };
    assert_eq!(machine.disks, [disk]);
    assert_eq!(machine.adapters, [Adapter { name: "eth0".into(), mac: None, switch: Some("LAN".into()) }]);
    let told = machine.left_out.join("; ");
    for what in ["disk2: it is an empty disk", "device sound", "device cd"] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let error = |from: &str, to: &str| {
        read(VIRTUALBOX.replace(from, to).as_bytes()).expect_err("refused").to_string()
    };
    assert!(error("Envelope", "Other").contains("no OVF description"));
    assert!(error("<VirtualSystem ", "<X ").contains("damaged"));
    assert!(error("ovf:id=\"file1\"", "ovf:id=\"file1\" ovf:compression=\"gzip\"").contains("compressed"));
    assert!(
        error("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file1\" ovf:parentRef=\"x\"").contains("differencing")
    );
    assert!(error("<rasd:VirtualQuantity>2<", "<rasd:VirtualQuantity>0<").contains("processors"));
    assert!(error("MegaBytes", "byte * 2^99").contains("memory"));
}

#[test]
fn units_are_factors() {
    for (text, bytes) in [
        ("byte * 2^20", Some(1 << 20)),
        ("MegaBytes", Some(1 << 20)),
        ("byte", Some(1)),
        ("byte*1024", Some(1024)),
        ("hour", None),
    ] {
        assert_eq!(unit(text), bytes, "{text}");
    }
}

proptest! {
    #[test]
    fn no_change_makes_it_panic(at in any::<prop::sample::Index>(), with in "[<>/0-9a-z\" ]{0,6}") {
        let mut bytes = VIRTUALBOX.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + 1), with.bytes());
        let _ = read(&bytes);
    }
}
