// What this process may use of the machine. The system's files are looked for below `root`, which
// only tests give.
#pragma once

#include <cstdint>
#include <string>

namespace smallmind {

inline constexpr int kMaxThreads = 64;

// Processors that the affinity mask and the cgroup's CPU quota (v1 and v2, the parents' included)
// allow, rounded up, in [1, 64]. What cannot be read does not limit.
int usable_processors(const std::string& root = {});

// Bytes that could still be taken without swapping: what the system calls available, at most what
// the cgroup's memory limits (v1 and v2, the parents' included) leave. What cannot be read does not
// limit.
uint64_t usable_memory(const std::string& root = {});

}  // namespace smallmind
