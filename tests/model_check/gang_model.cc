// The gang: every item of a region runs once; what the owner wrote before the region is seen in it
// and what the items wrote is seen after it; a parked helper wakes; stopping ends all (D26, G10).
// As it is, the source is searched within a bound on preemptions. With MODEL_CLAIMS_ONLY the claims
// alone are searched in full: the build takes parking, spinning and stopping out of the source.
#include "relacy.h"

#include "model_begin.h"
#include "base/gang.cc"
#include "model_end.h"
#include "model_error.h"

namespace smallmind {
namespace {

// The one thread owns the gang, which starts one helper.
template <size_t kItems, int kRegions>
struct GangSuite : rl::test_suite<GangSuite<kItems, kRegions>, 1> {
  static rl::thread_id_t const dynamic_thread_count = 1;

  void thread(unsigned) {
    Gang gang(2);
    rl::var<int> input;
    rl::var<int> output[kItems];
    for (int region = 1; region <= kRegions; ++region) {
      input(RL_INFO) = region;
      for (rl::var<int>& out : output) out(RL_INFO) = 0;
      gang.for_each(kItems, [&](size_t item, int) {
        const int seen = input(RL_INFO);
        output[item](RL_INFO) = output[item](RL_INFO) + seen;
      });
      for (rl::var<int>& out : output) {
        model::require(out(RL_INFO) == region, "an item did not run exactly once");
      }
    }
  }
};

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  using namespace smallmind;
  model::Checks checks(argc, argv);
#ifdef MODEL_CLAIMS_ONLY
  checks.full<GangSuite<2, 1>>();
#else
  checks.bounded<GangSuite<2, 2>>(3);
#endif
  return checks.status();
}
