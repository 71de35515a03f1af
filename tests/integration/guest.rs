//! A Linux guest, whose drives are our controllers, in all that a guest's life has in it.
//!
//! Guests take their time, and `scripts/install-guest.sh` must have made what they are of. So these tests run only if
//! asked: `cargo test --release --test integration guest:: -- --ignored`. They share one guest while nothing goes
//! wrong.

use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use serial_test::serial;

use crate::support::controller::{Controller, Front};
use crate::support::vm::{Script, Vm};
use crate::support::{paths, secs};

/// The guest's processors, and the queues of its drive.
const CPUS: u32 = 4;
/// Its first namespace, for the guest's scripts.
const FIRST: (&str, &str) = ("NSID", "1");

/// A front end with a controller, and a guest.
struct Guest {
    front: Front,
    dir: std::path::PathBuf,
    vm: Vm,
}

static GUEST: Mutex<Option<Guest>> = Mutex::new(None);

impl Guest {
    fn start() -> Self {
        let front = Front::start();
        front.malloc("disk", 64, 512);
        front.malloc("large", 64, 4_096);
        front.null("extra", 100);
        let dir = front.controller("drive", &["disk", "large"]).dir().to_owned();
        let vm = Vm::boot(&[&dir], CPUS);
        Self { front, dir, vm }
    }

    fn controller(&self) -> Controller<'_> {
        Controller::existing(&self.front, "drive", &self.dir)
    }

    /// The drive works: fio's data are read back as they were written.
    #[track_caller]
    fn check(&self) {
        self.vm.run("fio-verify.sh", &[FIRST, ("JOBS", "1"), ("SIZE_MIB", "4")], 120);
        self.front.assert_alive();
    }
}

/// Does something with the guest. One with which something went wrong is not used again.
#[track_caller]
fn with_guest(test: impl FnOnce(&mut Guest)) {
    let guest = GUEST.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut guest = guest.unwrap_or_else(Guest::start);
    test(&mut guest);
    guest.front.assert_alive();
    *GUEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest);
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn fio_verifies_its_data_over_one_queue_and_over_four() {
    with_guest(|guest| {
        for nsid in ["1", "2"] {
            for jobs in ["1", "4"] {
                let variables = [("NSID", nsid), ("JOBS", jobs), ("SIZE_MIB", "8")];
                guest.vm.run("fio-verify.sh", &variables, 180);
            }
        }
    });
}

fn resets(how: &str) {
    with_guest(|guest| {
        guest.vm.run("resets.sh", &[FIRST, ("HOW", how), ("TIMES", "5")], 180);
        guest.check();
    });
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn fio_sees_no_error_through_resets_by_nvme_cli() {
    resets("nvme");
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn fio_sees_no_error_through_controller_resets() {
    resets("sysfs");
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn fio_sees_no_error_through_function_level_resets() {
    resets("function");
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn the_driver_is_unbound_and_bound_under_load_and_the_data_stay() {
    with_guest(|guest| {
        guest.vm.run("unbind.sh", &[FIRST, ("TIMES", "3")], 180);
    });
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn linux_shows_namespaces_that_come_grow_and_go_without_a_rescan() {
    with_guest(|guest| {
        let controller = guest.controller();
        let blocks = |mib: u64| format!("[ \"$(sectors 3)\" = {} ]", mib << 11);
        for round in 0..3 {
            let first = 100 + round * 100;
            guest.front.rpc.ok("bdev_null_resize", &json!({ "name": "extra", "new_size": first }));
            assert_eq!(controller.add("extra"), 3, "round {round}");
            guest.vm.wait_until("find_drive 3", 10);
            guest.vm.wait_until(&blocks(first), 10);
            guest.front.rpc.ok("bdev_null_resize", &json!({ "name": "extra", "new_size": first + 50 }));
            guest.vm.wait_until(&blocks(first + 50), 10);
            controller.remove(3);
            guest.vm.wait_until("! find_drive 3", 10);
        }
        guest.check();
    });
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn linux_has_the_drive_under_one_name_and_finds_its_access_optimized() {
    with_guest(|guest| {
        let controller = guest.controller();
        let optimized =
            |nsid| format!("find_drive {nsid} && [ \"$(cat /sys/block/${{DRIVE##*/}}/ana_state)\" = optimized ]");
        guest.vm.wait_until("find_drive 1 && [ ${DRIVE%n*} = /dev/nvme0 ]", 10);
        guest.vm.wait_until("! compgen -G '/sys/block/nvme*c*n*'", 10);
        guest.vm.wait_until(&optimized(1), 10);
        assert_eq!(controller.add("extra"), 3);
        guest.vm.wait_until(&optimized(3), 10);
        controller.remove(3);
        guest.vm.wait_until("! find_drive 3", 10);
        guest.check();
    });
}

/// fio on the drive until it is killed while it runs.
fn under_load(guest: &Guest) -> Script {
    let fio = "await_drive 1; fio --name=load --filename=$DRIVE --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw --bs=4k \
               --numjobs=4 --size=16m --time_based --runtime=300 --output=\"$OUT/load\" & sleep 3; touch /share/begun; wait";
    let script = guest.vm.begin_text(fio, &[], 300);
    guest.vm.wait_for_share("begun", 60);
    script
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn a_guest_that_is_reset_under_load_boots_again_with_its_drive() {
    with_guest(|guest| {
        drop(under_load(guest));
        guest.vm.reset();
        guest.check();
    });
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn qemu_killed_under_load_makes_way_for_the_next_one_at_once() {
    with_guest(|guest| {
        let load = under_load(guest);
        guest.vm.kill();
        // At once: QEMU gives up a socket that does not answer within 5 s.
        guest.vm = Vm::boot(&[&guest.dir], CPUS);
        drop(load);
        guest.check();
    });
}

#[test]
#[serial]
#[ignore = "boots a guest"]
fn a_bdev_deleted_under_a_guest_takes_its_drive_and_no_other_with_it() {
    with_guest(|guest| {
        guest.front.null("doomed", 32);
        assert_eq!(guest.controller().add("doomed"), 3);
        guest.vm.wait_until("find_drive 3", 10);
        let fio = "await_drive 3; fio --name=doomed --filename=$DRIVE --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k \
                   --time_based --runtime=60; echo ended";
        let script = guest.vm.begin_text(fio, &[], 90);
        sleep(secs(5));
        guest.front.rpc.ok("bdev_null_delete", &json!({ "name": "doomed" }));
        guest.vm.wait_until("! find_drive 3", 10);
        let done = script.finish();
        assert!(done.output.contains("ended"), "fio hangs on a drive that is gone: {}", done.output);
        sleep(Duration::from_millis(100));
        guest.check();
    });
}

/// The whole of the guest's memory that the driver uses comes and goes while the drive is there: the guest's IOMMU maps
/// it.
#[test]
#[serial]
#[ignore = "boots a guest"]
fn spdk_s_abort_and_hotplug_use_the_drive_by_their_own_driver_behind_an_iommu() {
    let front = Front::start();
    front.malloc("disk", 64, 512);
    let controller = front.controller("drive", &["disk"]);
    let vm = Vm::boot_with(&[controller.dir()], CPUS, &["--host-root", "--iommu", "--memory", "2048"]);
    let abort = paths::stock("abort");
    let examples = abort.parent().expect("it is in a folder").display().to_string();
    let libraries = paths::library_path().to_string_lossy();
    let script = ["host-root.sh", "user-driver.sh"].map(|name| {
        std::fs::read_to_string(paths::checkout().join("scripts/guest").join(name)).expect("it is in the checkout")
    });
    let variables = [FIRST, ("EXAMPLES", &examples), ("LIBRARIES", &libraries)];
    let done = vm.begin_text(&script.concat(), &variables, 120).finish().ok();
    let said = |what: &str| assert!(done.output.contains(what), "'{what}' is missing:\n{}", done.output);
    said(", failed: 0\n");
    said("failed 0\n");
    assert!(!done.output.contains("abort submitted 0,"), "nothing was aborted:\n{}", done.output);
    said("Controller removed");
    assert_eq!(done.output.matches("Attached to").count(), 3, "by abort, and twice by hotplug:\n{}", done.output);
    front.assert_alive();
}

/// As crash kernels are often started. Interrupts come by the pin (`INTx`), which the drives here share with other
/// devices.
#[test]
#[serial]
#[ignore = "boots a guest"]
fn a_guest_without_msi_uses_its_drives_by_intx() {
    /// The function of a drive's interrupts in the guest, and how many there were. Those that nothing explains go on
    /// until the kernel gives up their line, after 100,000.
    const INTERRUPTS: &str = "interrupts() { awk '/nvme[0-9]+q/ { for (i = 2; i < 4; i++) sum += $i } END { print sum + 0 }' /proc/interrupts; }\n";
    let front = Front::start();
    front.malloc("disk", 64, 512);
    front.malloc("other", 64, 4_096);
    let controllers = [front.controller("drive", &["disk"]), front.controller("second", &["other"])];
    let vm = Vm::boot_with(&[controllers[0].dir(), controllers[1].dir()], 2, &["--append", "pci=nomsi"]);
    let fio =
        std::fs::read_to_string(paths::checkout().join("scripts/guest/fio-verify.sh")).expect("it is in the checkout");
    let check = "grep nvme /proc/interrupts; after=$(interrupts); echo \"$before interrupts, then $after\"
                 grep -q 'IO-APIC.*nvme' /proc/interrupts && ! grep -q 'MSI.*nvme' /proc/interrupts && [ $((after - before)) -ge 30 ] && [ $after -le 50000 ]";
    let text = format!("{INTERRUPTS}before=$(interrupts)\n{fio}\n{check}\n");
    vm.begin_text(&text, &[FIRST, ("JOBS", "1"), ("SIZE_MIB", "2")], 120).finish().ok();
    front.assert_alive();
}
