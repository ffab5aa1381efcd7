// What calls need beside what they are given, kept for the next.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

template <typename T>
class Spare {
 public:
  // One for the time of a call, so that calls from several threads do not meet.
  class Held {
   public:
    explicit Held(Spare &of) : owner(of) {
      std::lock_guard<std::mutex> lock(owner.mutex);
      if (owner.kept.empty()) {
        mine = std::make_unique<T>();
        owner.kept.reserve(owner.kept.capacity() + 1);  // so that giving back cannot fail
      } else {
        mine = std::move(owner.kept.back());
        owner.kept.pop_back();
      }
    }
    Held(const Held &) = delete;
    Held &operator=(const Held &) = delete;
    ~Held() {
      std::lock_guard<std::mutex> lock(owner.mutex);
      owner.kept.push_back(std::move(mine));
    }
    T &operator*() { return *mine; }
    T *operator->() { return mine.get(); }

   private:
    Spare &owner;
    std::unique_ptr<T> mine;
  };

 private:
  std::mutex mutex;
  std::vector<std::unique_ptr<T>> kept;
};
