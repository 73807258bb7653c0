use proptest::prelude::*;
use smoltcp::wire::DhcpOption;

use super::*;

const GUEST: EthernetAddress = EthernetAddress([0x00, 0x15, 0x5d, 1, 1, 1]);
const NOBODY: EthernetAddress = EthernetAddress([0; 6]);

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Writes what a guest sends with the same hand.
fn guest() -> Neighbour {
    Neighbour { mac: GUEST, ..Neighbour::new(0, &[]) }
}

fn arp(operation: ArpOperation, from: &str, wanted: &str) -> Vec<u8> {
    let asks = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: GUEST,
        source_protocol_addr: ip(from),
        target_hardware_addr: NOBODY,
        target_protocol_addr: ip(wanted),
    };
    guest().frame(EthernetAddress::BROADCAST, EthernetProtocol::Arp, asks.buffer_len(), |bytes| {
        asks.emit(&mut ArpPacket::new_unchecked(bytes));
    })
}

fn ask(from: &str, wanted: &str) -> Vec<u8> {
    arp(ArpOperation::Request, from, wanted)
}

/// Who says that an address is theirs.
fn told_by(answer: &[u8]) -> (EthernetAddress, Ipv4Addr, EthernetAddress) {
    let frame = EthernetFrame::new_checked(answer).unwrap();
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } =
        ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap()
    else {
        panic!("{answer:?}")
    };
    assert_eq!(operation, ArpOperation::Reply);
    (source_hardware_addr, source_protocol_addr, frame.dst_addr())
}

/// A segment as the guest sees it, with checksums that are right.
fn segment(frame: &[u8]) -> (Ipv4Addr, Ipv4Addr, TcpRepr<'_>) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(ethernet.dst_addr(), GUEST);
    let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let right = ChecksumCapabilities::default();
    let header = Ipv4Repr::parse(&packet, &right).unwrap();
    let (from, to) = (header.src_addr, header.dst_addr);
    let tcp = TcpPacket::new_checked(packet.payload()).unwrap();
    (from, to, TcpRepr::parse(&tcp, &from.into(), &to.into(), &right).unwrap())
}

/// What the guest says to a knock.
fn reply(knock: &[u8], control: TcpControl) -> Vec<u8> {
    let (from, to, asked) = segment(knock);
    let said = TcpRepr {
        control,
        seq_number: TcpSeqNumber(77),
        ack_number: Some(asked.seq_number + 1),
        ..knock_segment(asked.dst_port, asked.src_port)
    };
    let mut frame = guest().tcp(&Way { mac: Neighbour::new(0, &[]).mac, from: to, to: from }, &said);
    // The adapter would have to fill in the checksum.
    frame[14 + 20 + 16] ^= 0x55;
    frame
}

fn dhcp(kind: DhcpMessageType, requested: Option<Ipv4Addr>, server: Option<Ipv4Addr>) -> Vec<u8> {
    let asks = DhcpRepr {
        message_type: kind,
        transaction_id: 0x1234_5678,
        secs: 1,
        client_hardware_address: GUEST,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: requested,
        client_identifier: Some(GUEST),
        server_identifier: server,
        parameter_request_list: Some(&[1, 3, 6]),
        dns_servers: None,
        max_size: Some(576),
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[DhcpOption { kind: 12, data: b"pebble" }],
    };
    let mut bytes = vec![0; asks.buffer_len()];
    asks.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
    let header = UdpRepr { src_port: DHCP_CLIENT, dst_port: DHCP_SERVER };
    let way = Way { mac: EthernetAddress::BROADCAST, from: Ipv4Addr::UNSPECIFIED, to: Ipv4Addr::BROADCAST };
    guest().ipv4(&way, IpProtocol::Udp, 8 + bytes.len(), |udp| {
        let write = |payload: &mut [u8]| payload.copy_from_slice(&bytes);
        let (from, to) = (way.from.into(), way.to.into());
        let sums = ChecksumCapabilities::default();
        header.emit(&mut UdpPacket::new_unchecked(udp), &from, &to, bytes.len(), write, &sums);
    })
}

fn offered(frame: &[u8]) -> (DhcpMessageType, Ipv4Addr, Option<Ipv4Addr>, Option<Ipv4Addr>) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert!(ethernet.dst_addr().is_broadcast());
    let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    let udp = UdpPacket::new_checked(packet.payload()).unwrap();
    assert!(udp.verify_checksum(&header.src_addr.into(), &header.dst_addr.into()));
    assert_eq!((udp.src_port(), udp.dst_port()), (67, 68));
    assert!(udp.payload().len() >= DHCP_BYTES_MIN);
    let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
    let said = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((said.transaction_id, said.client_hardware_address), (0x1234_5678, GUEST));
    (said.message_type, said.your_ip, said.router, said.server_identifier)
}

fn only(frames: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.into_iter().next().unwrap()
}

fn came(neighbour: &Neighbour) -> Vec<Knock> {
    neighbour.knocks().collect()
}

#[test]
fn a_guest_with_dhcp_has_an_address_at_once_and_its_port_is_found() {
    let mut neighbour = Neighbour::new(3, &[5432]);
    let (own, its) = (ip("10.77.3.1"), ip("10.77.3.2"));
    let offer = neighbour.receive(&dhcp(DhcpMessageType::Discover, None, None)).unwrap();
    assert_eq!(offered(&offer), (DhcpMessageType::Offer, its, Some(own), Some(own)));
    assert_eq!(came(&neighbour), [Knock::NoAddress], "nobody has taken it yet");
    assert!(neighbour.speak(Duration::ZERO).is_empty());
    let ack = neighbour.receive(&dhcp(DhcpMessageType::Request, Some(its), Some(own))).unwrap();
    assert_eq!(offered(&ack), (DhcpMessageType::Ack, its, Some(own), Some(own)));
    assert_eq!(came(&neighbour), [Knock::Silent(its)], "it need not say a word more");

    // It makes sure that nobody has it, says that it has it, and asks for its gateway.
    assert_eq!(neighbour.receive(&ask("0.0.0.0", "10.77.3.2")), None);
    assert_eq!(neighbour.receive(&ask("10.77.3.2", "10.77.3.2")), None);
    let answer = neighbour.receive(&ask("10.77.3.2", "10.77.3.1")).unwrap();
    assert_eq!(told_by(&answer), (neighbour.mac, own, GUEST));
    let knock = only(neighbour.speak(Duration::from_secs(1)));
    let (from, to, syn) = segment(&knock);
    assert_eq!((from, to, syn.dst_port, syn.control), (own, its, 5432, TcpControl::Syn));
    assert!(neighbour.speak(Duration::from_millis(1900)).is_empty(), "it has time to answer");

    let reset = neighbour.receive(&reply(&knock, TcpControl::Syn)).unwrap();
    let (_, _, said) = segment(&reset);
    assert_eq!((said.control, said.seq_number), (TcpControl::Rst, syn.seq_number + 1));
    assert_eq!(came(&neighbour), [Knock::Answered(its)]);
    assert!(neighbour.speak(Duration::from_secs(9)).is_empty(), "what has answered is left alone");
}

#[test]
fn an_address_of_elsewhere_is_refused_so_that_the_guest_asks_anew() {
    let mut neighbour = Neighbour::new(0, &[22]);
    let again = neighbour.receive(&dhcp(DhcpMessageType::Request, Some(ip("192.168.1.9")), None)).unwrap();
    assert_eq!(offered(&again), (DhcpMessageType::Nak, ip("0.0.0.0"), None, Some(ip("10.77.0.1"))));
    let other = dhcp(DhcpMessageType::Request, Some(ip("10.77.0.2")), Some(ip("192.168.1.1")));
    assert_eq!(neighbour.receive(&other), None, "it chose another server");
}

#[test]
fn a_guest_with_a_fixed_address_finds_its_gateway_whatever_that_is() {
    let mut neighbour = Neighbour::new(0, &[80, 443]);
    let answer = neighbour.receive(&ask("192.168.1.10", "192.168.1.200")).unwrap();
    assert_eq!(told_by(&answer), (neighbour.mac, ip("192.168.1.200"), GUEST));
    let knocks = neighbour.speak(Duration::ZERO);
    let to: Vec<(Ipv4Addr, u16)> =
        knocks.iter().map(|knock| (segment(knock).0, segment(knock).2.dst_port)).collect();
    assert_eq!(to, [(ip("192.168.1.200"), 80), (ip("192.168.1.200"), 443)]);

    // One is refused, and later there is something.
    assert_eq!(neighbour.receive(&reply(&knocks[1], TcpControl::Rst)), None);
    neighbour.receive(&reply(&knocks[0], TcpControl::Syn)).unwrap();
    let its = ip("192.168.1.10");
    assert_eq!(came(&neighbour), [Knock::Answered(its), Knock::Refused(its)]);
    let again = only(neighbour.speak(Duration::from_secs(1)));
    assert_eq!(segment(&again).2.dst_port, 443);
    // A late answer to the knock before counts as well; a made-up one does not.
    let mut false_one = reply(&again, TcpControl::Syn);
    false_one[14 + 20 + 11] ^= 1;
    assert_eq!(neighbour.receive(&false_one), None);
    assert_eq!(came(&neighbour)[1], Knock::Refused(its));
    neighbour.receive(&reply(&again, TcpControl::Syn)).unwrap();
    assert_eq!(came(&neighbour)[1], Knock::Answered(its));
}

#[test]
fn nothing_makes_a_guest_believe_that_its_address_is_taken() {
    let mut neighbour = Neighbour::new(0, &[22]);
    for frame in [
        ask("0.0.0.0", "172.16.0.5"),
        ask("172.16.0.5", "172.16.0.5"),
        arp(ArpOperation::Reply, "172.16.0.5", "172.16.0.5"),
        // A second address of its own.
        ask("0.0.0.0", "172.16.0.6"),
        ask("172.16.0.5", "172.16.0.6"),
    ] {
        assert_eq!(neighbour.receive(&frame), None);
    }
    let knocks = neighbour.speak(Duration::ZERO);
    let ways: Vec<(Ipv4Addr, Ipv4Addr)> =
        knocks.iter().map(|knock| (segment(knock).0, segment(knock).1)).collect();
    let beside = ip("172.16.0.1");
    assert_eq!(ways, [(beside, ip("172.16.0.5")), (beside, ip("172.16.0.6"))]);
}

#[test]
fn what_is_no_address_of_a_host_is_not_learned_and_eight_suffice() {
    let mut neighbour = Neighbour::new(0, &[22]);
    for no in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.9", "240.0.0.1"] {
        assert_eq!(neighbour.receive(&ask(no, "10.0.0.1")), None, "{no}");
    }
    assert_eq!(neighbour.receive(&ask("10.0.0.9", "224.0.0.1")), None);
    for n in 0..100 {
        neighbour.hear_of(Ipv4Addr::new(10, 1, 0, n), GUEST.0);
    }
    assert_eq!(neighbour.speak(Duration::ZERO).len(), ADDRESSES_MAX);
    let own = guest().frame(GUEST, EthernetProtocol::Arp, 0, |_| ());
    assert_eq!(Neighbour { mac: GUEST, ..neighbour }.receive(&own), None, "its own voice");
}

#[test]
fn each_adapter_is_in_a_network_of_its_own() {
    let addresses: Vec<Ipv4Addr> = (0..3)
        .map(|adapter| {
            let mut neighbour = Neighbour::new(adapter, &[22]);
            offered(&neighbour.receive(&dhcp(DhcpMessageType::Discover, None, None)).unwrap()).1
        })
        .collect();
    assert_eq!(addresses, [ip("10.77.0.2"), ip("10.77.1.2"), ip("10.77.2.2")]);
}

proptest! {
    /// Frames of rubbish, and good ones with some bytes changed, are taken in bounded memory.
    #[test]
    fn any_frames_are_read(
        rubbish in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut neighbour = Neighbour::new(0, &[22, 80]);
        neighbour.receive(&ask("10.0.0.9", "10.0.0.1"));
        let knock = neighbour.speak(Duration::ZERO).remove(0);
        let mut good = vec![
            ask("10.0.0.5", "10.0.0.1"),
            dhcp(DhcpMessageType::Discover, None, None),
            reply(&knock, TcpControl::Syn),
        ];
        for frame in &mut good {
            for (at, byte) in &changes {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
        }
        for (second, frame) in (1..).zip(good.iter().chain(&rubbish)) {
            neighbour.receive(frame);
            let spoken = neighbour.speak(Duration::from_secs(second));
            prop_assert!(neighbour.known.len() <= ADDRESSES_MAX);
            prop_assert!(spoken.len() <= 2 * ADDRESSES_MAX);
        }
    }

    /// However a good frame is cut off.
    #[test]
    fn any_piece_of_a_frame_is_read(length in 0..400_usize) {
        let mut neighbour = Neighbour::new(0, &[22]);
        for frame in [ask("10.0.0.5", "10.0.0.1"), dhcp(DhcpMessageType::Discover, None, None)] {
            neighbour.receive(&frame[..length.min(frame.len())]);
        }
    }
}
