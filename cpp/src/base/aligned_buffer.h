// An uninitialised array on a cache-line boundary.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace smallmind {

// Owns n elements of a trivial type; throws std::bad_alloc. Untouched pages of a large buffer cost
// no memory.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t n)
      : data_(static_cast<T*>(::operator new(n * sizeof(T), kAlignment))), bytes_(n * sizeof(T)) {}
  T* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace smallmind
