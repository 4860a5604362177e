#include "serving/page_pool.h"

#include <sys/mman.h>

#include <string>

#include "smallmind/error.h"

namespace smallmind {

std::byte* PagePool::take() {
  void* page =
      mmap(nullptr, page_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    throw Error(ErrorKind::kMemoryBudget, "the system refused " + std::to_string(page_bytes_) +
                                              " bytes for a KV page; " + std::to_string(n_in_use_) +
                                              " pages are in use");
  }
  ++n_in_use_;
  return static_cast<std::byte*>(page);
}

void PagePool::give_back(std::byte* page) noexcept {
  munmap(page, page_bytes_);
  --n_in_use_;
}

}  // namespace smallmind
