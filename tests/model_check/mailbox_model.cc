// The mailbox: what a caller leaves is taken, or refused with the close; a waiting loop hears of
// everything; a session's release is taken no later than its next request (D26, G10, L-10).
#include "relacy.h"

#include "model_begin.h"
#include "engine/mailbox.cc"
#include "model_end.h"

namespace smallmind {

class Task {};
struct KvHold {};

namespace {

// The loop takes until it is told to close. A caller resets its session, which releases the KV, and
// asks again; another closes the engine.
struct MailboxSuite : rl::test_suite<MailboxSuite, 3> {
  std::unique_ptr<Mailbox> mailbox;
  int n_accepted = 0;
  int n_taken = 0;
  bool was_released = false;

  void before() {
    mailbox = std::make_unique<Mailbox>();
    n_accepted = n_taken = 0;
    was_released = false;
  }

  void thread(unsigned index) {
    if (index == 0) loop();
    if (index == 1) caller();
    if (index == 2) mailbox->close();
  }

  void loop() {
    Mail mail;
    do {
      mailbox->take(mail, true, Clock::time_point::max());
      if (!mail.released.empty()) was_released = true;
      if (!mail.tasks.empty()) model::require(was_released, "a request came before its release");
      n_taken += static_cast<int>(mail.tasks.size());
    } while (!mail.is_closing);
  }

  void caller() {
    mailbox->release(std::make_shared<KvHold>());
    const auto outcome = mailbox->submit(std::make_shared<Task>());
    if (outcome == Mailbox::Outcome::kTaken) ++n_accepted;
    mailbox->poke();
  }

  void after() {
    model::require(n_taken == n_accepted, "a request was lost");
    mailbox.reset();
  }
};

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  model::Checks checks(argc, argv);
  checks.full<smallmind::MailboxSuite>();
  return checks.status();
}
