//! What the fuzz targets drive: everything here that reads bytes of a guest.

use std::{collections::BTreeSet, time::Duration};

use crate::{Knock, Neighbour};

const PORTS: [u16; 3] = [22, 80, 5432];
const ADAPTER: u8 = 3;
/// What a cable carries at most, and with it the neighbour's answers.
const FRAME_BYTES_MAX: usize = 1514;

/// Frames of a guest, before each its length in units of two bytes. Whatever comes, each frame is answered by one at most that the
/// neighbour could have sent, no port is knocked at twice within a second, and what a port said is never forgotten.
pub fn neighbour(bytes: &[u8]) {
    let mut neighbour = Neighbour::new(ADAPTER, &PORTS);
    let (mut rest, mut now, mut before) = (bytes, Duration::ZERO, vec![Knock::NoAddress; PORTS.len()]);
    while let [length, more @ ..] = rest {
        let (frame, more) = more.split_at((2 * usize::from(*length)).min(more.len()));
        rest = more;
        if let Some(answer) = neighbour.receive(frame) {
            is_its(&answer);
        }
        now += Duration::from_millis(400);
        let mut knocks = BTreeSet::new();
        for frame in neighbour.speak(now) {
            is_its(&frame);
            // To whom, and at which port.
            assert!(knocks.insert((frame[30..34].to_vec(), frame[36..38].to_vec())), "twice at once");
        }
        assert!(knocks.len() <= 8 * PORTS.len(), "{} knocks", knocks.len());
        let came: Vec<Knock> = neighbour.knocks().collect();
        assert!(came.len() == PORTS.len() && came.iter().zip(&before).all(|(now, before)| now >= before));
        before = came;
    }
}

fn is_its(frame: &[u8]) {
    assert!((42..=FRAME_BYTES_MAX).contains(&frame.len()), "{} bytes", frame.len());
    assert_eq!(frame[6..12], [0x02, 0, 0x4e, 0x45, 0x53, ADAPTER]);
}

/// A guest that asks for an address, one that has one, and what a port answers to the first knock.
#[must_use]
pub fn neighbour_seeds() -> Vec<Vec<u8>> {
    let frames = |all: &[&[u8]]| -> Vec<u8> {
        all.iter().flat_map(|frame| [&[(frame.len() / 2) as u8], *frame].concat()).collect()
    };
    let (discover, request) = (dhcp(1, &[]), dhcp(3, &[50, 4, 10, 77, ADAPTER, 2]));
    let (ask, open, closed) = (arp(), tcp(0x12), tcp(0x14));
    vec![
        frames(&[&discover, &request, &open]),
        frames(&[&ask, &open]),
        frames(&[&ask, &closed]),
        frames(&[&request, &ask]),
    ]
}

const GUEST: [u8; 6] = [0, 0x15, 0x5d, 1, 1, 1];

fn ethernet(ethertype: [u8; 2]) -> Vec<u8> {
    [&[0xff; 6][..], &GUEST, &ethertype].concat()
}

fn arp() -> Vec<u8> {
    let asks = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &GUEST, &[10, 77, ADAPTER, 2], &[0; 6], &[10, 77, ADAPTER, 1]];
    [ethernet([8, 6]), asks.concat()].concat()
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = [&[0x45, 0][..], &length, &[0, 0, 0, 0, 64, protocol, 0, 0], &from, &to].concat();
    [&ethernet([8, 0]), &header, payload].concat()
}

fn dhcp(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut asks = vec![0; 240];
    asks[..4].copy_from_slice(&[1, 1, 6, 0]);
    asks[28..34].copy_from_slice(&GUEST);
    asks[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    asks.extend([53, 1, kind]);
    asks.extend(options);
    asks.push(255);
    // The length before a frame counts in twos.
    asks.resize(asks.len().next_multiple_of(2), 0);
    let length = u16::try_from(8 + asks.len()).unwrap_or(u16::MAX).to_be_bytes();
    let udp = [&[0, 68, 0, 67][..], &length, &[0, 0], &asks].concat();
    ipv4(17, [0; 4], [255; 4], &udp)
}

/// To the first knock, which comes from port 49152.
fn tcp(flags: u8) -> Vec<u8> {
    let acknowledged = ((49_152_u32 << 8) + 1).to_be_bytes();
    let said = [&[0, 22, 0xc0, 0, 0, 0, 0, 77][..], &acknowledged, &[0x50, flags, 4, 0, 0, 0, 0, 0]].concat();
    ipv4(6, [10, 77, ADAPTER, 2], [10, 77, ADAPTER, 1], &said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        for seed in neighbour_seeds() {
            neighbour(&seed);
        }
        let mut guest = Neighbour::new(ADAPTER, &PORTS);
        assert!(guest.receive(&dhcp(1, &[])).is_some());
        assert!(guest.receive(&dhcp(3, &[50, 4, 10, 77, ADAPTER, 2])).is_some());
        assert!(guest.receive(&arp()).is_some());
        assert_eq!(guest.speak(Duration::ZERO).len(), PORTS.len());
        assert!(guest.receive(&tcp(0x12)).is_some());
        assert!(matches!(guest.knocks().next(), Some(Knock::Answered(_))));
    }
}
