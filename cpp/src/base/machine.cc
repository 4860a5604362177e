#include "base/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

namespace smallmind {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// Files of the kernel's making: short, and read in one go.
std::optional<std::string> read_small_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::string text(16384, '\0');
  const ssize_t n = ::read(fd, text.data(), text.size());
  ::close(fd);
  if (n < 0) return std::nullopt;
  text.resize(static_cast<size_t>(n));
  return text;
}

std::optional<double> leading_number(std::string_view text) {
  double value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || !(value > 0)) return std::nullopt;
  return value;
}

double quota_over_period(std::optional<double> quota, std::optional<double> period) {
  return quota && period ? *quota / *period : kNoLimit;
}

// "max 100000" or "150000 100000".
double quota_v2(const std::string& folder) {
  const std::optional<std::string> text = read_small_file(folder + "/cpu.max");
  if (!text) return kNoLimit;
  const size_t space = text->find(' ');
  if (space == std::string::npos) return kNoLimit;
  return quota_over_period(leading_number(*text),
                           leading_number(std::string_view(*text).substr(space + 1)));
}

double quota_v1(const std::string& folder) {
  const std::optional<std::string> quota = read_small_file(folder + "/cpu.cfs_quota_us");
  const std::optional<std::string> period = read_small_file(folder + "/cpu.cfs_period_us");
  if (!quota || !period) return kNoLimit;
  return quota_over_period(leading_number(*quota), leading_number(*period));
}

// The least quota of the group and its parents.
template <class Quota>
double least_quota(const std::string& mount, std::string group, const Quota& quota) {
  double least = quota(mount);
  while (!group.empty() && group != "/") {
    least = std::min(least, quota(mount + group));
    group.erase(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
  return least;
}

// Lines of /proc/self/cgroup: "0::/group" (v2) and "4:cpu,cpuacct:/group" (v1).
template <class QuotaV2, class QuotaV1>
double least_of_cgroups(const std::string& root, const std::string& controller, const QuotaV2& v2,
                        const QuotaV1& v1) {
  const std::optional<std::string> groups = read_small_file(root + "/proc/self/cgroup");
  if (!groups) return kNoLimit;
  double least = kNoLimit;
  for (size_t begin = 0; begin < groups->size();) {
    const size_t end = std::min(groups->find('\n', begin), groups->size());
    const std::string line = groups->substr(begin, end - begin);
    begin = end + 1;
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, least_quota(root + "/sys/fs/cgroup", group, v2));
    } else if (controllers.find("," + controller + ",") != std::string::npos) {
      least = std::min(least, least_quota(root + "/sys/fs/cgroup/" + controller, group, v1));
    }
  }
  return least;
}

int affinity_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The number behind a name at the beginning of a line: "MemAvailable:  123456 kB".
std::optional<double> number_of(const std::string& path, const std::string& name) {
  const std::optional<std::string> text = read_small_file(path);
  if (!text) return std::nullopt;
  const size_t line = ("\n" + *text).find("\n" + name + " ");
  if (line == std::string::npos) return std::nullopt;
  const size_t number = text->find_first_not_of(' ', line + name.size());
  if (number == std::string::npos) return std::nullopt;
  return leading_number(std::string_view(*text).substr(number));
}

double available_memory(const std::string& root) {
  const std::optional<double> kilobytes = number_of(root + "/proc/meminfo", "MemAvailable:");
  return kilobytes ? *kilobytes * 1024 : kNoLimit;
}

// What a limit leaves; "max" is none. Pages of files that nobody has used lately count as used, and
// are given up first.
double memory_left(const std::string& limit_path, const std::string& usage_path,
                   std::optional<double> inactive_file) {
  const std::optional<std::string> limit = read_small_file(limit_path);
  const std::optional<std::string> usage = read_small_file(usage_path);
  if (!limit || !usage) return kNoLimit;
  const std::optional<double> most = leading_number(*limit);
  if (!most) return kNoLimit;
  const double used = leading_number(*usage).value_or(0) - inactive_file.value_or(0);
  return std::max(0.0, *most - std::max(0.0, used));
}

double memory_left_v2(const std::string& folder) {
  return memory_left(folder + "/memory.max", folder + "/memory.current",
                     number_of(folder + "/memory.stat", "inactive_file"));
}

double memory_left_v1(const std::string& folder) {
  return memory_left(folder + "/memory.limit_in_bytes", folder + "/memory.usage_in_bytes",
                     number_of(folder + "/memory.stat", "total_inactive_file"));
}

}  // namespace

uint64_t usable_memory(const std::string& root) {
  const double left = std::min(available_memory(root),
                               least_of_cgroups(root, "memory", memory_left_v2, memory_left_v1));
  constexpr double kMost = 9e18;
  return static_cast<uint64_t>(std::clamp(left, 0.0, kMost));
}

int usable_processors(const std::string& root) {
  const double allowed = std::min<double>(
      affinity_processors(), std::ceil(least_of_cgroups(root, "cpu", quota_v2, quota_v1)));
  return static_cast<int>(std::clamp<double>(allowed, 1, kMaxThreads));
}

}  // namespace smallmind
