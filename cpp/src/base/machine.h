// What this process may use of the machine.
#pragma once

namespace smallmind {

inline constexpr int kMaxThreads = 64;

// Processors that the affinity mask and the cgroup's CPU quota (v1 and v2, the parents' included)
// allow, rounded up, in [1, 64]. What cannot be read does not limit.
int usable_processors();

}  // namespace smallmind
