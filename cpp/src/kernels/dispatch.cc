#include "kernels/dispatch.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

// "avx512, avx2 or generic"
std::string known_names() {
  const auto choices = kernel_choices();
  std::string names;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) names += i + 1 < choices.size() ? ", " : " or ";
    names += choices[i].table->name;
  }
  return names;
}

// The best available table that fits, or null.
template <class Fn>
const Kernels* find(const Fn& fits) {
  for (const KernelChoice& choice : kernel_choices())
    if (fits(*choice.table) && choice.is_available()) return choice.table;
  return nullptr;
}

const Kernels& choose() {
  const char* forced = std::getenv("SMALLMIND_ISA");
  if (forced == nullptr || *forced == '\0') return *find([](const Kernels&) { return true; });
  const Kernels* table = kernels_by_name(forced);
  if (table == nullptr) {
    throw Error(ErrorKind::kInvalidArgument,
                "SMALLMIND_ISA: '" + escape(forced) +
                    "' is not an instruction set that this process can use; wants " +
                    known_names());
  }
  return *table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels* kernels_by_name(const char* name) {
  return find([&](const Kernels& table) { return std::string_view(table.name) == name; });
}

}  // namespace smallmind
