//! SHA-256 of two messages at once.
//!
//! Within one message each of the processor's SHA instructions waits for the one before, so that half of them is idle.
//! Two messages in turn fill the gaps. This gives what `sha2` gives, which does all that is not a block of both, and all
//! of it on processors without the instructions; it never looks at a message, so that nothing depends on what is in it.

use sha2::block_api::compress256;

const BLOCK_BYTES: usize = 64;
/// Of the padding: where the message's length stands in the last block.
const LENGTH_AT: usize = BLOCK_BYTES - 8;

type Block = [u8; BLOCK_BYTES];
type State = [u32; 8];

/// FIPS 180-4, 5.3.3.
const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The SHA-256 of each.
pub(crate) fn sha256_of_both(messages: [&[u8]; 2]) -> [[u8; 32]; 2] {
    let blocks = messages.map(|message| message.as_chunks().0);
    let common = blocks[0].len().min(blocks[1].len());
    let mut states = [INITIAL; 2];
    compress_both(&mut states, [&blocks[0][..common], &blocks[1][..common]]);
    let [first, second] = messages;
    let [one, other] = states;
    [finish(one, first, common), finish(other, second, common)]
}

/// What is left of a message of which so many blocks are in the state already, and its padding.
fn finish(mut state: State, message: &[u8], done: usize) -> [u8; 32] {
    let (blocks, rest) = message[done * BLOCK_BYTES..].as_chunks();
    compress256(&mut state, blocks);
    let mut last = [[0; BLOCK_BYTES]; 2];
    let bytes = last.as_flattened_mut();
    bytes[..rest.len()].copy_from_slice(rest);
    bytes[rest.len()] = 0x80;
    let count = if rest.len() < LENGTH_AT { 1 } else { 2 };
    let bits = (message.len() as u64).wrapping_mul(8);
    last[count - 1][LENGTH_AT..].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut state, &last[..count]);
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// As many blocks of the one as of the other.
fn compress_both(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
    {
        #[expect(
            unsafe_code,
            reason = "there is no safe way to call what needs instructions that may be missing"
        )]
        // SAFETY: the processor has them.
        unsafe {
            x86::compress_both(states, blocks);
        }
        return;
    }
    for (state, blocks) in states.iter_mut().zip(blocks) {
        compress256(state, blocks);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_cvtsi128_si64, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
        _mm_shuffle_epi32, _mm_unpackhi_epi64,
    };

    use super::{Block, State};

    /// FIPS 180-4, 4.2.2.
    const K: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// A state as the instructions want it, and the sixteen newest words of its message's schedule.
    #[derive(Clone, Copy)]
    struct Lane {
        abef: __m128i,
        cdgh: __m128i,
        words: [__m128i; 4],
    }

    /// From the lowest word up.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn four([a, b, c, d]: [u32; 4]) -> __m128i {
        _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
    }

    /// Sixteen bytes of a message as four words.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn words(block: &Block, number: usize) -> __m128i {
        let halves = block.as_chunks::<8>().0;
        let half = |at: usize| i64::from_le_bytes(halves[2 * number + at]);
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        _mm_shuffle_epi8(_mm_set_epi64x(half(1), half(0)), swap)
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn load(state: &State) -> Lane {
        let [a, b, c, d, e, f, g, h] = *state;
        let zero = four([0; 4]);
        Lane { abef: four([f, e, b, a]), cdgh: four([h, g, d, c]), words: [zero; 4] }
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn store(lane: &Lane, state: &mut State) {
        // Of each pair the word that comes first stands higher.
        let pairs = [lane.abef, lane.cdgh].map(|four| {
            [_mm_cvtsi128_si64(_mm_unpackhi_epi64(four, four)), _mm_cvtsi128_si64(four)]
                .map(|pair| [(pair.cast_unsigned() >> 32) as u32, pair.cast_unsigned() as u32])
        });
        let [[ab, ef], [cd, gh]] = pairs;
        state.as_chunks_mut::<2>().0.copy_from_slice(&[ab, cd, ef, gh]);
    }

    /// Four rounds; from the fifth time on with words that come of those before.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn rounds<const STEP: usize>(lane: &mut Lane) {
        let words = &mut lane.words;
        if STEP >= 4 {
            let [oldest, older, newer, newest] = std::array::from_fn(|age| words[(STEP + age) % 4]);
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(oldest, older), _mm_alignr_epi8(newest, newer, 4));
            words[STEP % 4] = _mm_sha256msg2_epu32(sum, newest);
        }
        let keyed = _mm_add_epi32(words[STEP % 4], four(K[STEP]));
        lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, keyed);
        lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, _mm_shuffle_epi32(keyed, 0x0e));
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn compress_both(states: &mut [State; 2], blocks: [&[Block]; 2]) {
        let [mut one, mut other] = [load(&states[0]), load(&states[1])];
        macro_rules! in_turn {
            ($($step:literal)*) => {$(
                rounds::<$step>(&mut one);
                rounds::<$step>(&mut other);
            )*};
        }
        for (first, second) in blocks[0].iter().zip(blocks[1]) {
            let before = [one, other];
            one.words = [words(first, 0), words(first, 1), words(first, 2), words(first, 3)];
            other.words = [words(second, 0), words(second, 1), words(second, 2), words(second, 3)];
            in_turn!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for (lane, before) in [&mut one, &mut other].into_iter().zip(before) {
                lane.abef = _mm_add_epi32(lane.abef, before.abef);
                lane.cdgh = _mm_add_epi32(lane.cdgh, before.cdgh);
            }
        }
        store(&one, &mut states[0]);
        store(&other, &mut states[1]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn expected(messages: [&[u8]; 2]) -> [[u8; 32]; 2] {
        messages.map(|message| Sha256::digest(message).into())
    }

    #[test]
    fn both_are_what_each_is_alone_at_every_length_around_a_block() {
        let bytes: Vec<u8> = (0..1000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for one in (0..=260).chain([1000]) {
            for other in [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 200, 1000] {
                let messages = [&bytes[..one], &bytes[1000 - other..]];
                assert_eq!(sha256_of_both(messages), expected(messages), "{one} and {other} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn both_are_what_each_is_alone(
            one in prop::collection::vec(any::<u8>(), 0..2000),
            other in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            prop_assert_eq!(sha256_of_both([&one, &other]), expected([&one, &other]));
        }
    }
}
