// The tree of shared KV pages and its budget, with bytes in the pages that say what they are of.
#include "serving/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "serving/invariants.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr size_t kPageBytes = 4096;  // 32 slots of 128 bytes
constexpr size_t kSlotBytes = kPageBytes / kPageTokens;
constexpr KvGeometry kFullOnly{{kPageBytes, 0}, 0};
constexpr KvGeometry kWindowed{{kPageBytes, kPageBytes}, 70};

using Ids = std::vector<int32_t>;

Ids ids_from(int32_t first, size_t n) {
  Ids ids(n);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What the KV of a context's last token depends on: all of it.
uint64_t fingerprint(std::span<const int32_t> context) {
  return PrefixCache::hash_ids(17, context);
}

// One sequence in the making; "computes" by writing fingerprints.
struct Sequence {
  Ids context;
  std::shared_ptr<KvHold> hold;
  std::unique_ptr<KvCache> kv;
  size_t most;  // tokens that were reckoned with

  Sequence(Ids ids, std::shared_ptr<KvHold> kept, int64_t n_more = 64, std::string salt = {})
      : context(std::move(ids)),
        hold(std::move(kept)),
        kv(std::make_unique<KvCache>(static_cast<int64_t>(context.size()) + n_more, hold,
                                     std::move(salt))),
        most(context.size() + static_cast<size_t>(n_more)) {}

  int64_t n_left() const { return static_cast<int64_t>(context.size()) - kv->size(); }

  // Checks what it could see, writes n tokens.
  void compute(int64_t n, const KvGeometry& geometry) {
    kv->prepare(context, n);
    for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow}) {
      if (geometry.page_bytes[static_cast<size_t>(group)] == 0) continue;
      int64_t first = 0;
      if (group == PageGroup::kWindow) {
        first = std::max<int64_t>(0, kv->size() + 1 - geometry.window);
      }
      for (int64_t position = first; position < kv->size() + n; ++position) {
        std::byte* const page = kv->pages(group)[static_cast<size_t>(position / kPageTokens)];
        ASSERT_NE(page, nullptr);
        std::byte* const slot = page + static_cast<size_t>(position % kPageTokens) * kSlotBytes;
        const uint64_t wanted =
            fingerprint(std::span(context).first(static_cast<size_t>(position) + 1));
        if (position >= kv->size()) {
          std::memcpy(slot, &wanted, sizeof wanted);
        } else {
          uint64_t found = 0;
          std::memcpy(&found, slot, sizeof found);
          ASSERT_EQ(found, wanted) << "position " << position;
        }
      }
    }
    kv->append(context, n);
  }

  // All that is left, in chunks.
  void compute_all(const KvGeometry& geometry, int64_t chunk = 48) {
    while (n_left() > 0) {
      ASSERT_EQ(kv->advance(context), nullptr);
      compute(std::min(chunk, n_left()), geometry);
    }
  }
};

struct World {
  PagePool pool;
  PrefixCache cache;

  explicit World(const KvGeometry& geometry = kFullOnly, int64_t n_pages = 1000,
                 PrefixCache::Hash hash = PrefixCache::hash_ids)
      : pool(geometry, static_cast<uint64_t>(n_pages) * kPageBytes),
        cache(pool, pool.limit(), hash) {}

  // A sequence that has run and ended; what it computed stays as cache.
  int64_t run(const Ids& ids, const std::shared_ptr<KvHold>& hold, const std::string& salt = {}) {
    Sequence sequence(ids, hold, 64, salt);
    EXPECT_TRUE(sequence.kv->start(cache, sequence.context));
    sequence.compute_all(pool.geometry());
    const int64_t n_reused = sequence.kv->n_reused();
    sequence.kv->stop(true);
    return n_reused;
  }
  void expect_sound(std::vector<const KvCache*> running = {}) {
    EXPECT_EQ(find_violation(cache, running), "");
  }
};

std::shared_ptr<KvHold> new_hold() { return std::make_shared<KvHold>(); }

TEST(KvCacheTest, ASecondTurnComputesOnlyWhatIsNew) {
  World world;
  const auto hold = new_hold();
  const Ids first = ids_from(0, 100);
  EXPECT_EQ(world.run(first, hold), 0);
  EXPECT_EQ(world.run(joined(first, ids_from(500, 20)), hold), 100);  // its unfinished block, too
  EXPECT_EQ(world.run(ids_from(0, 110), hold), 100);                  // another third turn
  EXPECT_EQ(world.run(ids_from(0, 110), hold), 109);  // never the last token of the prompt
  world.expect_sound();
}

TEST(KvCacheTest, ADivergingTurnKeepsTheBeginning) {
  World world;
  const auto hold = new_hold();
  world.run(ids_from(0, 100), hold);
  EXPECT_EQ(world.run(joined(ids_from(0, 77), ids_from(500, 20)), hold), 77);
  world.expect_sound();
}

TEST(KvCacheTest, SessionsShareEqualBeginningsWhileTheDonorRuns) {
  World world;
  const Ids system = ids_from(0, 96);
  Sequence donor(joined(system, ids_from(1000, 10)), new_hold());
  ASSERT_TRUE(donor.kv->start(world.cache, donor.context));
  donor.compute_all(kFullOnly);
  Sequence other(joined(system, ids_from(2000, 10)), new_hold());
  ASSERT_TRUE(other.kv->start(world.cache, other.context));
  EXPECT_EQ(other.kv->size(), 96);
  EXPECT_EQ(world.pool.n_in_use(), 4);  // three shared pages, the donor's last
  other.compute_all(kFullOnly);
  world.expect_sound({donor.kv.get(), other.kv.get()});
}

// Sixteen equal beginnings at the same instant are computed once.
TEST(KvCacheTest, OnlyOneComputesABlockTheOthersWait) {
  World world;
  const Ids system = ids_from(0, 1000);
  std::vector<std::unique_ptr<Sequence>> all;
  std::vector<const KvCache*> running;
  for (int32_t i = 0; i < 16; ++i) {
    all.push_back(
        std::make_unique<Sequence>(joined(system, ids_from(5000 + 100 * i, 20)), new_hold()));
    ASSERT_TRUE(all.back()->kv->start(world.cache, all.back()->context));
    running.push_back(all.back()->kv.get());
  }
  int64_t n_computed = 0;
  for (bool is_done = false; !is_done;) {
    is_done = true;
    for (auto& each : all) {
      if (each->n_left() == 0) continue;
      is_done = false;
      if (each->kv->advance(each->context) != nullptr) continue;
      const int64_t n = std::min<int64_t>(48, each->n_left());
      each->compute(n, kFullOnly);
      n_computed += n;
    }
    world.expect_sound(running);
  }
  EXPECT_LE(n_computed, 1000 + 16 * (20 + kPageTokens));
}

TEST(KvCacheTest, AWaiterTakesOverWhenTheOwnerEnds) {
  World world;
  const Ids ids = ids_from(0, 200);
  Sequence owner(ids, new_hold());
  Sequence waiter(ids, new_hold());
  ASSERT_TRUE(owner.kv->start(world.cache, owner.context));
  ASSERT_TRUE(waiter.kv->start(world.cache, waiter.context));
  EXPECT_EQ(owner.kv->advance(owner.context), nullptr);
  owner.compute(80, kFullOnly);
  EXPECT_EQ(waiter.kv->advance(waiter.context), owner.kv.get());
  EXPECT_EQ(waiter.kv->size(), 64);
  owner.kv->stop(false);
  EXPECT_EQ(waiter.kv->advance(waiter.context), nullptr);
  EXPECT_EQ(waiter.kv->size(), 80);  // what the owner had of the block is not lost
  waiter.compute_all(kFullOnly);
  world.expect_sound({waiter.kv.get()});
}

TEST(KvCacheTest, NobodyWaitsForASequenceThatWaitsForItsReader) {
  World world;
  Sequence owner(ids_from(0, 100), new_hold());
  Sequence other(ids_from(0, 100), new_hold());
  ASSERT_TRUE(owner.kv->start(world.cache, owner.context));
  ASSERT_TRUE(other.kv->start(world.cache, other.context));
  EXPECT_EQ(owner.kv->advance(owner.context), nullptr);
  owner.kv->is_paused = true;
  other.compute_all(kFullOnly);  // asserts that it need not wait
  owner.kv->is_paused = false;
  owner.compute_all(kFullOnly);  // its twins are in the tree by now
  world.expect_sound({owner.kv.get(), other.kv.get()});
}

// a salt keeps tenants apart.
TEST(KvCacheTest, SaltsShareNothing) {
  World world;
  const Ids ids = ids_from(0, 110);
  EXPECT_EQ(world.run(ids, new_hold(), "a"), 0);
  EXPECT_EQ(world.run(ids, new_hold(), "b"), 0);
  EXPECT_EQ(world.run(ids, new_hold(), "a"), 109);
  world.expect_sound();
}

// ids decide, whatever the hash.
TEST(KvCacheTest, EqualHashesDoNotMakeEqualBlocks) {
  World world(kFullOnly, 1000, [](uint64_t, std::span<const int32_t>) { return uint64_t{0}; });
  EXPECT_EQ(world.run(ids_from(0, 100), new_hold()), 0);
  EXPECT_EQ(world.run(ids_from(1000, 100), new_hold()), 0);
  EXPECT_EQ(world.run(joined(ids_from(0, 32), ids_from(1000, 50)), new_hold()), 32);
  EXPECT_EQ(world.run(ids_from(0, 100), new_hold()), 99);
  world.expect_sound();
}

TEST(KvCacheTest, WithoutAHoldNothingIsSharedOrKept) {
  World world;
  Sequence sequence(ids_from(0, 100), nullptr);
  ASSERT_TRUE(sequence.kv->start(world.cache, sequence.context));
  sequence.compute_all(kFullOnly);
  world.expect_sound({sequence.kv.get()});
  sequence.kv->stop(true);
  EXPECT_EQ(world.pool.n_in_use(), 0);
  EXPECT_EQ(world.run(ids_from(0, 100), new_hold()), 0);
}

// L-03: what is promised to running sequences is never promised again.
TEST(KvCacheTest, AdmitsOnlyWhatTheBudgetHolds) {
  World world(kFullOnly, 10);
  Sequence a(ids_from(0, 100), new_hold(), 60);     // five pages
  Sequence b(ids_from(1000, 100), new_hold(), 60);  // five more
  Sequence c(ids_from(2000, 20), new_hold(), 1);
  EXPECT_TRUE(a.kv->start(world.cache, a.context));
  EXPECT_TRUE(b.kv->start(world.cache, b.context));
  EXPECT_FALSE(c.kv->start(world.cache, c.context));
  a.compute_all(kFullOnly);
  b.compute_all(kFullOnly);
  EXPECT_FALSE(c.kv->start(world.cache, c.context));
  world.expect_sound({a.kv.get(), b.kv.get()});
  a.kv->stop(true);
  EXPECT_TRUE(c.kv->start(world.cache, c.context));
  c.compute_all(kFullOnly);
  world.expect_sound({b.kv.get(), c.kv.get()});
}

TEST(KvCacheTest, EvictsTheLeastRecentlyUsedFirstAndIdleSessionsLast) {
  World world(kFullOnly, 12);
  const auto idle = new_hold();
  world.run(ids_from(0, 96), idle);  // three pages, held by a session
  for (int32_t i = 1; i <= 3; ++i) {
    const auto closed = new_hold();
    world.run(ids_from(1000 * i, 96), closed);
    world.cache.release(*closed);
  }
  EXPECT_EQ(world.cache.n_held_pages(), 3);
  EXPECT_EQ(world.cache.n_cached_pages(), 9);
  const auto again = new_hold();
  EXPECT_EQ(world.run(ids_from(1000, 96), again), 95);  // used last from now on
  world.cache.release(*again);
  world.run(ids_from(5000, 150), new_hold());
  EXPECT_GT(world.cache.n_evicted_pages(), 0);
  EXPECT_EQ(world.run(ids_from(2000, 96), new_hold()), 0);  // evicted
  EXPECT_EQ(world.run(ids_from(0, 96), idle), 95);          // the session's was not
  world.expect_sound();
}

TEST(KvCacheTest, AnIdleSessionGivesItsPagesWhenTheyAreNeeded) {
  World world(kFullOnly, 8);
  const auto idle = new_hold();
  world.run(ids_from(0, 96), idle);
  Sequence large(ids_from(5000, 240), new_hold(), 16);  // all eight pages
  ASSERT_TRUE(large.kv->start(world.cache, large.context));
  large.compute_all(kFullOnly);
  world.expect_sound({large.kv.get()});
  EXPECT_TRUE(idle->path.empty());
  large.kv->stop(false);
  EXPECT_EQ(world.run(ids_from(0, 96), idle), 0);  // computed again
  world.expect_sound();
}

TEST(KvCacheTest, ForksShareTheirPath) {
  World world;
  const auto hold = new_hold();
  const auto fork = new_hold();
  const Ids ids = ids_from(0, 110);
  world.run(ids, hold);
  world.cache.copy(*hold, fork);
  EXPECT_EQ(world.cache.n_held_pages(), 4);
  EXPECT_EQ(world.run(joined(ids, ids_from(700, 9)), hold), 110);
  EXPECT_EQ(world.run(joined(ids, ids_from(800, 9)), fork), 110);
  world.expect_sound();
}

// The window's pages are let go behind it, and a hit needs those before its end.
TEST(KvCacheTest, AWindowNeedsOnlyItsLastPages) {
  World world(kWindowed);
  const auto hold = new_hold();
  Sequence sequence(ids_from(0, 500), hold);
  ASSERT_TRUE(sequence.kv->start(world.cache, sequence.context));
  sequence.compute_all(kWindowed);
  int n_shown = 0;
  for (const std::byte* page : sequence.kv->pages(PageGroup::kWindow)) n_shown += page != nullptr;
  EXPECT_LE(n_shown, 4);  // 70 keys
  world.expect_sound({sequence.kv.get()});
  sequence.kv->stop(true);
  EXPECT_EQ(world.run(joined(ids_from(0, 500), ids_from(900, 5)), hold), 500);
  world.expect_sound();
}

TEST(KvCacheTest, AHitEndsWhereTheWindowsPagesAre) {
  World world(kWindowed, 28);  // tight: pages behind the window are evicted
  const auto hold = new_hold();
  Sequence sequence(ids_from(0, 400), hold, 1);
  ASSERT_TRUE(sequence.kv->start(world.cache, sequence.context));
  sequence.compute_all(kWindowed);
  sequence.kv->stop(true);
  world.run(ids_from(5000, 150), new_hold());
  world.expect_sound();
  const int64_t n_reused = world.run(joined(ids_from(0, 160), ids_from(900, 5)), new_hold());
  EXPECT_LT(n_reused, 160);  // the full pages alone are no hit
  world.expect_sound();
}

struct RandomCase {
  KvGeometry geometry;
  int64_t n_pages;
};

// Random sequences with common beginnings, chunks, ends, pauses and forks: every page read holds
// what a sequence alone would have written, and the books always balance.
void run_randomly(const RandomCase& what, unsigned seed) {
  std::mt19937 random(seed);
  World world(
      what.geometry, what.n_pages,
      seed % 3 == 0
          ? [](uint64_t, std::span<const int32_t> s) { return static_cast<uint64_t>(s[0] % 2); }
          : PrefixCache::hash_ids);
  std::vector<std::shared_ptr<KvHold>> holds;
  std::vector<Ids> histories(6);
  for (size_t i = 0; i < histories.size(); ++i) holds.push_back(new_hold());
  std::vector<std::unique_ptr<Sequence>> running(histories.size());
  const auto someone = [&] { return random() % histories.size(); };
  for (int round = 0; round < 400; ++round) {
    const size_t who = someone();
    if (!running[who]) {
      Ids context = random() % 2 == 0 ? histories[who] : Ids{};
      if (context.empty()) context = ids_from(static_cast<int32_t>(random() % 2), random() % 150);
      const Ids more = ids_from(1000 + static_cast<int32_t>(random() % 3), 1 + random() % 60);
      context = joined(context, more);
      if (context.size() > 300) context.resize(120);
      auto sequence = std::make_unique<Sequence>(context, holds[who], 1 + random() % 60);
      if (world.pool.geometry().bytes_for(static_cast<int64_t>(context.size()) + 60) >
          world.pool.limit()) {
        continue;
      }
      if (sequence->kv->start(world.cache, sequence->context)) running[who] = std::move(sequence);
    } else if (random() % 8 == 0) {
      histories[who] = running[who]->context;
      running[who]->kv->stop(random() % 4 != 0);
      running[who].reset();
      if (random() % 5 == 0) world.cache.release(*holds[who]);
    } else if (random() % 10 == 0) {
      running[who]->kv->is_paused = !running[who]->kv->is_paused;
    } else if (!running[who]->kv->is_paused &&
               running[who]->kv->advance(running[who]->context) == nullptr) {
      Sequence& sequence = *running[who];
      if (sequence.n_left() == 0) {
        if (sequence.context.size() >= sequence.most) continue;
        sequence.context.push_back(static_cast<int32_t>(random() % 2));
      }
      const auto n = std::min<int64_t>(sequence.n_left(), 1 + static_cast<int64_t>(random() % 128));
      ASSERT_NO_FATAL_FAILURE(sequence.compute(n, what.geometry));
    }
    const size_t other = someone();
    if (random() % 20 == 0 && !running[who] && !running[other] && who != other) {
      world.cache.copy(*holds[who], holds[other]);
      histories[other] = histories[who];
    }
    std::vector<const KvCache*> alive;
    for (const auto& sequence : running) {
      if (sequence) alive.push_back(sequence->kv.get());
    }
    ASSERT_EQ(find_violation(world.cache, alive), "") << "round " << round;
  }
}

TEST(KvCacheTest, RandomTrafficReadsWhatItWroteAndKeepsItsBooks) {
  for (unsigned seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const KvGeometry& geometry = seed % 2 == 0 ? kFullOnly : kWindowed;
    ASSERT_NO_FATAL_FAILURE(run_randomly({geometry, 24 + 8 * (seed % 7)}, seed));
  }
}

}  // namespace
}  // namespace smallmind
