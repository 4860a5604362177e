// Random numbers as a function of (key, counter): no state, so batches, threads and replays cannot
// shift a stream.
#pragma once

#include <array>
#include <cstdint>

namespace smallmind {

// Philox4x32 with 10 rounds (Salmon et al., 2011).
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Uniform in [0, 1), 53 random bits.
inline double counter_uniform(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> bits =
      philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t wide = uint64_t{bits[1]} << 32 | bits[0];
  return static_cast<double>(wide >> 11) * 0x1p-53;
}

}  // namespace smallmind
