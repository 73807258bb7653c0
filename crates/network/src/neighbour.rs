//! The only neighbour of a machine whose adapter is plugged into nothing: frames in, frames out, no interface of the host.
//!
//! It gives the guest an address by DHCP, is whatever gateway the guest looks for, and knocks at TCP ports until they answer.
//! It never completes a connection: what listens gets a reset before any program hears of it.
//!
//! All frames come from a guest, which is hostile. What is kept of them is bounded, and one frame is answered by one at most.

use std::{net::Ipv4Addr, time::Duration};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
        EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
        TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    },
};

/// So many addresses of one guest are knocked at.
const ADDRESSES_MAX: usize = 8;
const KNOCK_INTERVAL: Duration = Duration::from_secs(1);
/// The ports that it knocks from, one after the other, so that no knock is taken for one before.
const FROM_FIRST: u16 = 49_152;
const FROM_COUNT: u16 = 16_000;
const LEASE_SECONDS: u32 = 86_400;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// What old clients take for the least.
const DHCP_BYTES_MIN: usize = 300;
const HOPS: u8 = 64;

/// What came of knocking at one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knock {
    /// The guest has no IPv4 address that is known.
    NoAddress,
    Silent(Ipv4Addr),
    Refused(Ipv4Addr),
    Answered(Ipv4Addr),
}

/// An address of the guest.
struct Known {
    address: Ipv4Addr,
    mac: EthernetAddress,
    /// What it asked for: it takes that for a neighbour, and answers it.
    asked: Option<Ipv4Addr>,
    knock_at: Duration,
}

/// What stands at the other end of one adapter's cable.
pub struct Neighbour {
    mac: EthernetAddress,
    /// Of the network whose second address the guest gets by DHCP.
    own: Ipv4Addr,
    leased_to: Option<EthernetAddress>,
    known: Vec<Known>,
    ports: Vec<(u16, Knock)>,
    knocks: u16,
}

impl Neighbour {
    /// Of the adapter with this place in its machine: each is in a network of its own.
    pub fn new(adapter: u8, ports: &[u16]) -> Self {
        Self {
            mac: EthernetAddress([0x02, 0x00, 0x4e, 0x45, 0x53, adapter]),
            own: Ipv4Addr::new(10, 77, adapter, 1),
            leased_to: None,
            known: Vec::new(),
            ports: ports.iter().map(|port| (*port, Knock::NoAddress)).collect(),
            knocks: 0,
        }
    }

    /// What came of knocking, in the order of the ports.
    pub fn knocks(&self) -> impl Iterator<Item = Knock> {
        let silent = self.known.first().map_or(Knock::NoAddress, |known| Knock::Silent(known.address));
        self.ports.iter().map(move |(_, knock)| if *knock == Knock::NoAddress { silent } else { *knock })
    }

    /// Takes an address that somebody else knows the guest to have.
    pub fn hear_of(&mut self, address: Ipv4Addr, mac: [u8; 6]) {
        self.learn(address, EthernetAddress(mac));
    }

    /// Takes a frame of the guest: what is said to it.
    pub fn receive(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let from = frame.src_addr();
        if from == self.mac || !from.is_unicast() {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.receive_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.receive_ipv4(from, frame.payload()),
            _ => None,
        }
    }

    /// What is to be said now without being asked.
    pub fn speak(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for at in 0..self.known.len() {
            let known = &mut self.known[at];
            if known.knock_at > now {
                continue;
            }
            known.knock_at = now + KNOCK_INTERVAL;
            let (to, mac) = (known.address, known.mac);
            let from = known.asked.unwrap_or_else(|| self.beside(to));
            for at in 0..self.ports.len() {
                let (port, knock) = self.ports[at];
                if !matches!(knock, Knock::Answered(_)) {
                    let source = FROM_FIRST + self.knocks % FROM_COUNT;
                    self.knocks = (self.knocks + 1) % FROM_COUNT;
                    let way = Way { mac, from, to };
                    frames.push(self.tcp(&way, &knock_segment(source, port)));
                }
            }
        }
        frames
    }

    /// An address that the guest takes for one of its own network.
    fn beside(&self, address: Ipv4Addr) -> Ipv4Addr {
        let [a, b, c, d] = address.octets();
        let own = Ipv4Addr::new(a, b, c, 1);
        if d == 1 { Ipv4Addr::new(a, b, c, 254) } else { own }
    }

    fn learn(&mut self, address: Ipv4Addr, mac: EthernetAddress) {
        let is_full = self.known.len() >= ADDRESSES_MAX;
        if !is_hosts(address) || !mac.is_unicast() || is_full || self.find(address).is_some() {
            return;
        }
        self.known.push(Known { address, mac, asked: None, knock_at: Duration::ZERO });
    }

    fn find(&mut self, address: Ipv4Addr) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.address == address)
    }

    fn receive_arp(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let arp = ArpRepr::parse(&ArpPacket::new_checked(bytes).ok()?).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: mac,
            source_protocol_addr: from,
            target_protocol_addr: wanted,
            ..
        } = arp
        else {
            return None;
        };
        if from.is_unspecified() {
            // It asks whether somebody has the address that it is about to take.
            self.learn(wanted, mac);
            return None;
        }
        self.learn(from, mac);
        // Whoever answered an announcement, or for an address of the guest's own, would take that address from it.
        if operation != ArpOperation::Request || !is_hosts(wanted) || self.find(wanted).is_some() {
            return None;
        }
        let known = self.find(from)?;
        known.asked.get_or_insert(wanted);
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: self.mac,
            source_protocol_addr: wanted,
            target_hardware_addr: mac,
            target_protocol_addr: from,
        };
        Some(self.frame(mac, EthernetProtocol::Arp, answer.buffer_len(), |bytes| {
            answer.emit(&mut ArpPacket::new_unchecked(bytes));
        }))
    }

    fn receive_ipv4(&mut self, mac: EthernetAddress, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        // A guest that leaves checksums to its adapter sends wrong ones.
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).ok()?;
        self.learn(header.src_addr, mac);
        match header.next_header {
            IpProtocol::Tcp => self.receive_tcp(mac, &header, packet.payload()),
            IpProtocol::Udp => {
                let udp = UdpPacket::new_checked(packet.payload()).ok()?;
                (udp.dst_port() == DHCP_SERVER).then(|| self.receive_dhcp(udp.payload()))?
            }
            _ => None,
        }
    }

    fn receive_tcp(&mut self, mac: EthernetAddress, header: &Ipv4Repr, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = TcpPacket::new_checked(bytes).ok()?;
        let (from, to) = (IpAddress::Ipv4(header.src_addr), IpAddress::Ipv4(header.dst_addr));
        let said = TcpRepr::parse(&packet, &from, &to, &ChecksumCapabilities::ignored()).ok()?;
        self.find(header.src_addr)?;
        let (_, knock) = self.ports.iter_mut().find(|(port, _)| *port == said.src_port)?;
        // Only what answers a knock says something.
        if !(FROM_FIRST..FROM_FIRST + FROM_COUNT).contains(&said.dst_port)
            || said.ack_number != Some(number(said.dst_port) + 1)
        {
            return None;
        }
        match said.control {
            TcpControl::Syn => *knock = Knock::Answered(header.src_addr).max(*knock),
            TcpControl::Rst => {
                *knock = Knock::Refused(header.src_addr).max(*knock);
                return None;
            }
            _ => return None,
        }
        let mut reset = knock_segment(said.dst_port, said.src_port);
        (reset.control, reset.seq_number) = (TcpControl::Rst, number(said.dst_port) + 1);
        Some(self.tcp(&Way { mac, from: header.dst_addr, to: header.src_addr }, &reset))
    }

    fn receive_dhcp(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let asked = DhcpRepr::parse(&packet).ok()?;
        let mac = asked.client_hardware_address;
        let offered = Ipv4Addr::from(u32::from(self.own) + 1);
        let is_ours = asked.server_identifier.is_none_or(|server| server == self.own);
        if !is_ours || !mac.is_unicast() || *self.leased_to.get_or_insert(mac) != mac {
            return None;
        }
        let wanted = asked.requested_ip.or(Some(asked.client_ip).filter(|address| !address.is_unspecified()));
        let message_type = match asked.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request if wanted == Some(offered) => DhcpMessageType::Ack,
            // It had another one where it was saved, and begins anew.
            DhcpMessageType::Request => DhcpMessageType::Nak,
            _ => return None,
        };
        let gives = message_type != DhcpMessageType::Nak;
        if message_type == DhcpMessageType::Ack {
            // Many say no word more before they are spoken to.
            self.learn(offered, mac);
            let own = self.own;
            if let Some(known) = self.find(offered) {
                known.asked.get_or_insert(own);
            }
        }
        let answer = DhcpRepr {
            message_type,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: if gives { offered } else { Ipv4Addr::UNSPECIFIED },
            server_ip: self.own,
            router: gives.then_some(self.own),
            subnet_mask: gives.then_some(Ipv4Addr::new(255, 255, 255, 0)),
            requested_ip: None,
            server_identifier: Some(self.own),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: gives.then_some(LEASE_SECONDS),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
            ..asked
        };
        self.dhcp(&answer)
    }

    fn dhcp(&self, answer: &DhcpRepr<'_>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; answer.buffer_len().max(DHCP_BYTES_MIN)];
        answer.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).ok()?;
        let header = UdpRepr { src_port: DHCP_SERVER, dst_port: DHCP_CLIENT };
        // To all: who has no address yet can be told so only.
        let way = Way { mac: EthernetAddress::BROADCAST, from: self.own, to: Ipv4Addr::BROADCAST };
        let length = header.header_len() + bytes.len();
        Some(self.ipv4(&way, IpProtocol::Udp, length, |udp| {
            header.emit(
                &mut UdpPacket::new_unchecked(udp),
                &IpAddress::Ipv4(way.from),
                &IpAddress::Ipv4(way.to),
                bytes.len(),
                |payload| payload.copy_from_slice(&bytes),
                &ChecksumCapabilities::default(),
            );
        }))
    }

    fn tcp(&self, way: &Way, segment: &TcpRepr<'_>) -> Vec<u8> {
        self.ipv4(way, IpProtocol::Tcp, segment.buffer_len(), |bytes| {
            segment.emit(
                &mut TcpPacket::new_unchecked(bytes),
                &IpAddress::Ipv4(way.from),
                &IpAddress::Ipv4(way.to),
                &ChecksumCapabilities::default(),
            );
        })
    }

    fn ipv4(
        &self,
        way: &Way,
        next_header: IpProtocol,
        payload_len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let header =
            Ipv4Repr { src_addr: way.from, dst_addr: way.to, next_header, payload_len, hop_limit: HOPS };
        let length = header.buffer_len() + payload_len;
        self.frame(way.mac, EthernetProtocol::Ipv4, length, |bytes| {
            header.emit(&mut Ipv4Packet::new_unchecked(&mut *bytes), &ChecksumCapabilities::default());
            write(&mut bytes[header.buffer_len()..]);
        })
    }

    fn frame(
        &self,
        to: EthernetAddress,
        ethertype: EthernetProtocol,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let header = EthernetRepr { src_addr: self.mac, dst_addr: to, ethertype };
        let mut frame = vec![0; header.buffer_len() + length];
        header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        write(&mut frame[header.buffer_len()..]);
        frame
    }
}

/// Where a packet goes.
struct Way {
    mac: EthernetAddress,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

/// Where the numbers of a knock begin, told by the port that it comes from: nothing need be kept of it.
fn number(from_port: u16) -> TcpSeqNumber {
    TcpSeqNumber(i32::from(from_port) << 8)
}

fn knock_segment(from_port: u16, port: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: from_port,
        dst_port: port,
        control: TcpControl::Syn,
        seq_number: number(from_port),
        ack_number: None,
        window_len: 1024,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// Whether one host can have it.
fn is_hosts(address: Ipv4Addr) -> bool {
    !address.is_loopback() && (1..224).contains(&address.octets()[0])
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
