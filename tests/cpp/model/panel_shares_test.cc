#include "model/panel_shares.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace smallmind {
namespace {

// However many panels, tokens and threads: every panel once, in whole blocks of 32 rows but at a
// range's end.
TEST(PanelSharesTest, CoversEveryPanelOnce) {
  for (const int n_threads : {1, 2, 3, 5}) {
    Gang gang(n_threads);
    for (const size_t n_panels : {1, 2, 3, 7, 36, 97, 3072}) {
      for (const size_t n_tokens : {1, 16, 128}) {
        std::vector<std::atomic<int>> times(n_panels);
        std::atomic<int> n_odd{0};
        PanelShares shares(n_panels, 576, n_tokens, n_threads);
        shares.for_each(gang, [&](size_t first, size_t n) {
          for (size_t i = first; i < first + n; ++i) ++times.at(i);
          if (first % 2 != 0 || (n % 2 != 0 && first + n != n_panels)) ++n_odd;
        });
        for (size_t i = 0; i < n_panels; ++i)
          ASSERT_EQ(times[i], 1) << "panel " << i << " of " << n_panels;
        EXPECT_EQ(n_odd, 0) << n_panels << " panels, " << n_tokens << " tokens, " << n_threads;
      }
    }
  }
}

// One thread alone meets its panels in order: what is fetched ahead is what it reads next.
TEST(PanelSharesTest, GoesThroughARangeInOrder) {
  Gang gang(1);
  PanelShares shares(97, 576, 16, 1);
  size_t next = 0, n_pieces = 0;
  shares.for_each(gang, [&](size_t first, size_t n) {
    EXPECT_EQ(first, next);
    next = first + n;
    ++n_pieces;
  });
  EXPECT_EQ(next, 97u);
  EXPECT_GT(n_pieces, 3u);  // something is left to take until late
}

}  // namespace
}  // namespace smallmind
