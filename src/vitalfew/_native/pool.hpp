// Threads that wait for work between calls.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

class Pool {
 public:
  static constexpr size_t MOST = 256;

  // Calls work(i) for every i below `parts`, each on its own thread, and waits. Who finds
  // the pool at work, or gets no threads, does the parts himself.
  template <typename Work>
  static void run(size_t parts, const Work &work) {
    if (parts > 1) return shared().share(parts, work);
    work(0);
  }

 private:
  // The one pool of this process. A child that was forked has none of its parent's
  // threads and gets its own; pools are never destroyed, for their threads may be at work
  // while the process ends.
  static Pool &shared() {
    static std::atomic<Pool *> held{nullptr};
    Pool *pool = held.load(std::memory_order_acquire);
    while (!pool || pool->process != process_id()) {
      Pool *fresh = new Pool;
      if (held.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
      delete fresh;
    }
    return *pool;
  }

  template <typename Work>
  void share(size_t parts, const Work &work) {
    std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
    size_t others = 0;
    if (mine) others = grow(std::min(parts, MOST) - 1);
    const Task task{[](const void *w, size_t i) { (*static_cast<const Work *>(w))(i); }, &work};
    for (size_t i = 0; i < others; ++i) workers[i]->start(&task, i + 1);
    work(0);
    for (size_t i = others + 1; i < parts; ++i) work(i);
    for (size_t i = 0; i < others; ++i) workers[i]->wait();
  }

  struct Task {
    void (*call)(const void *, size_t);
    const void *work;
  };

  struct Worker {
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<const Task *> task{nullptr};
    size_t part = 0;

    void start(const Task *next, size_t i) {
      {
        std::lock_guard<std::mutex> lock(mutex);
        part = i;
        task.store(next, std::memory_order_release);
      }
      wake.notify_one();
    }

    void wait() const {
      for (int spins = 0; task.load(std::memory_order_acquire); ++spins)
        if (spins > SPINS) std::this_thread::yield();
    }

    void loop() {
      for (;;) {
        const Task *next = nullptr;
        for (int spins = 0; spins < SPINS && !next; ++spins)
          next = task.load(std::memory_order_acquire);
        if (!next) {
          std::unique_lock<std::mutex> lock(mutex);
          wake.wait(lock, [this] { return task.load(std::memory_order_acquire) != nullptr; });
          next = task.load(std::memory_order_acquire);
        }
        next->call(next->work, part);
        task.store(nullptr, std::memory_order_release);
      }
    }
  };

  static constexpr int SPINS = 10'000;  // some microseconds, less than going to sleep takes

  static long process_id() {
#if defined(__unix__) || defined(__APPLE__)
    return long(getpid());
#else
    return 0;
#endif
  }

  // Threads beside the caller's own, at most `wanted`.
  size_t grow(size_t wanted) {
    try {
      while (workers.size() < wanted) {
        auto worker = std::make_unique<Worker>();
        std::thread([w = worker.get()] { w->loop(); }).detach();
        workers.push_back(std::move(worker));
      }
    } catch (const std::system_error &) {
    }
    return std::min(workers.size(), wanted);
  }

  const long process = process_id();
  std::mutex busy;
  std::vector<std::unique_ptr<Worker>> workers;
};
