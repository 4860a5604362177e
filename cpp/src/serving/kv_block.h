// One block of 32 positions: the ids it was computed from, its pages, and who holds them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "model/model.h"

namespace smallmind {

class KvCache;
struct KvBlock;

// A block's place in a list ordered by last use.
struct LruLink {
  uint64_t last_used = 0;
  KvBlock* previous = nullptr;
  KvBlock* next = nullptr;
  bool is_listed = false;
};

// How many sequences need a page: those that run, and sessions between two calls.
struct PageHolders {
  int32_t n_running = 0;
  int32_t n_idle = 0;
  bool is_held() const { return n_running + n_idle > 0; }
};

// Plain data of the loop thread's; PrefixCache keeps it consistent.
//
// kPrivate: one running sequence's, in no tree. kComputing: in the tree, so that others can wait
// for it; ids are what its pages will hold. kReady: pages and ids are final. A ready block of fewer
// than 32 ids is the end of what a sequence held; it has no children and is only copied from.
struct KvBlock {
  enum class State : uint8_t { kPrivate, kComputing, kReady };

  State state = State::kPrivate;
  int32_t n_ids = 0;
  std::array<int32_t, kPageTokens> ids{};
  std::array<std::byte*, kPageGroups> pages{};  // the window page may have been given up
  std::array<PageHolders, kPageGroups> holders{};
  const KvCache* owner = nullptr;  // of a computing block

  // The tree; a root has no parent and no ids.
  KvBlock* parent = nullptr;
  KvBlock* first_child = nullptr;
  KvBlock* previous_sibling = nullptr;
  KvBlock* next_sibling = nullptr;
  KvBlock* next_in_bucket = nullptr;
  uint64_t hash = 0;
  bool is_linked = false;
  bool is_hashed = false;

  std::array<LruLink, kPageGroups> lru{};  // [full]: a leaf that nobody holds; [window]: its page
  std::array<bool, kPageGroups> is_cached{};  // pages that nobody holds, as counted by the cache
};

}  // namespace smallmind
