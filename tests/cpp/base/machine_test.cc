// Limits of containers: cgroups of both versions, written as the kernel shows them.
#include "base/machine.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>

namespace smallmind {
namespace {

namespace fs = std::filesystem;

// A folder with files of the system in it, gone with the object.
class Root {
 public:
  explicit Root(const std::map<std::string, std::string>& files) {
    std::string name = (fs::temp_directory_path() / "smallmind-machine-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw fs::filesystem_error(name, std::error_code());
    path_ = name;
    for (const auto& [file, text] : files) {
      fs::create_directories((path_ / file).parent_path());
      std::ofstream(path_ / file) << text;
    }
  }
  ~Root() { fs::remove_all(path_); }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

int processors(const std::map<std::string, std::string>& files) {
  return usable_processors(Root(files).path());
}

uint64_t memory(const std::map<std::string, std::string>& files) {
  return usable_memory(Root(files).path());
}

int all_processors() { return usable_processors(Root({}).path()); }

TEST(MachineTest, UsesTheProcessorsOfTheAffinityMask) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  EXPECT_EQ(all_processors(), std::min(CPU_COUNT(&all), kMaxThreads));
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  int alone = 0;
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    alone = all_processors();
  }).join();
  EXPECT_EQ(alone, 1);
}

// A container sees its own group as the root.
TEST(MachineTest, ObeysTheQuotaOfVersion2RoundedUp) {
  const auto with_quota = [](const char* quota) {
    return processors({{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", quota}});
  };
  EXPECT_EQ(with_quota("50000 100000\n"), 1);
  EXPECT_EQ(with_quota("100000 100000\n"), 1);
  EXPECT_EQ(with_quota("1000 100000\n"), 1);  // never 0
  EXPECT_EQ(with_quota("max 100000\n"), all_processors());
  EXPECT_EQ(with_quota("6400000 100000\n"), all_processors());
  if (all_processors() >= 2) {
    EXPECT_EQ(with_quota("100001 100000\n"), 2);
  }
}

TEST(MachineTest, ObeysTheQuotasOfTheParentGroups) {
  std::map<std::string, std::string> files = {
      {"proc/self/cgroup", "0::/machine/pod/app\n"},
      {"sys/fs/cgroup/machine/cpu.max", "100000 100000\n"},
      {"sys/fs/cgroup/machine/pod/cpu.max", "max 100000\n"},
      {"sys/fs/cgroup/machine/pod/app/cpu.max", "800000 100000\n"},
  };
  EXPECT_EQ(processors(files), 1);
  files["sys/fs/cgroup/machine/cpu.max"] = "max 100000\n";
  EXPECT_EQ(processors(files), all_processors());
}

TEST(MachineTest, ObeysTheQuotaOfVersion1BesideOtherControllers) {
  std::map<std::string, std::string> files = {
      {"proc/self/cgroup",
       "12:memory:/docker/abc\n4:cpuset:/\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n"},
      {"sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "50000\n"},
      {"sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n"},
  };
  EXPECT_EQ(processors(files), 1);
  files["sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us"] = "-1\n";  // none
  EXPECT_EQ(processors(files), all_processors());
  // Seen from inside of the container the group's path does not exist; its root has the limit.
  files.erase("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us");
  files["sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "20000\n";
  files["sys/fs/cgroup/cpu/cpu.cfs_period_us"] = "100000\n";
  EXPECT_EQ(processors(files), 1);
}

// P-15: what cannot be read does not limit.
TEST(MachineTest, IsNotDisturbedByFilesThatAreMissingOrMalformed) {
  EXPECT_EQ(processors({{"proc/self/cgroup", ""}}), all_processors());
  EXPECT_EQ(processors({{"proc/self/cgroup", "nonsense\n:\n0:\n\n0::"}}), all_processors());
  for (const char* quota : {"", "max", "0 100000", "-5 100000", "a b", "5 0", "nan nan"}) {
    EXPECT_EQ(processors({{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", quota}}),
              all_processors())
        << quota;
  }
  EXPECT_GT(memory({}), uint64_t{1} << 60);
  for (const char* text : {"MemAvailable:", "MemAvailable: \n", "NoMemAvailable: 5 kB", ""}) {
    EXPECT_GT(memory({{"proc/meminfo", text}}), uint64_t{1} << 60);
  }
}

TEST(MachineTest, UsesTheMemoryThatIsAvailableAndThatTheGroupLeaves) {
  std::map<std::string, std::string> files = {
      {"proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n"}};
  EXPECT_EQ(memory(files), 4000u * 1024);
  files["proc/self/cgroup"] = "0::/pod/app\n";
  files["sys/fs/cgroup/pod/app/memory.max"] = "max\n";
  files["sys/fs/cgroup/pod/app/memory.current"] = "1000\n";
  EXPECT_EQ(memory(files), 4000u * 1024);
  files["sys/fs/cgroup/pod/memory.max"] = "3000000\n";
  files["sys/fs/cgroup/pod/memory.current"] = "1000000\n";
  EXPECT_EQ(memory(files), 2'000'000u);
  // The model's file, once read, stays in the system's cache and can be dropped.
  files["sys/fs/cgroup/pod/memory.stat"] = "anon 400000\nfile 600000\ninactive_file 250000\n";
  EXPECT_EQ(memory(files), 2'250'000u);
  files["sys/fs/cgroup/pod/memory.current"] = "3500000\n";  // above its limit for a moment
  EXPECT_EQ(memory(files), 0u);
}

TEST(MachineTest, ObeysTheMemoryLimitOfVersion1) {
  EXPECT_EQ(memory({{"proc/meminfo", "MemAvailable:    4000 kB\n"},
                    {"proc/self/cgroup", "5:memory:/a\n"},
                    {"sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000000\n"},
                    {"sys/fs/cgroup/memory/a/memory.usage_in_bytes", "500000\n"},
                    {"sys/fs/cgroup/memory/a/memory.stat",
                     "inactive_file 7\ntotal_inactive_file 100000\n"}}),
            1'600'000u);
}

}  // namespace
}  // namespace smallmind
