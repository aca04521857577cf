// Package provisioner makes PersistentVolumes out of folders that every node of a test cluster sees.
package provisioner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/reference"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Name is what a StorageClass names as its provisioner to get volumes from this package.
const Name = "wisp.dev/folder"

type provisioner struct {
	client  kubernetes.Interface
	folder  string
	claims  cache.Indexer
	volumes cache.Indexer
	class   func(string) (bool, error)
}

// NewCommand is `kube provisioner`.
func NewCommand() *cobra.Command {
	var kubeconfig, folder string
	c := &cobra.Command{
		Use:           "provisioner",
		Short:         "Serve PersistentVolumeClaims from a folder",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return run(genericapiserver.SetupSignalContext(), kubeconfig, folder)
		},
	}
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	c.Flags().StringVar(&folder, "folder", "", "the folder, the same on every node")
	return c
}

func run(ctx context.Context, kubeconfig, folder string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	volumes := factory.Core().V1().PersistentVolumes().Informer()
	classes := factory.Storage().V1().StorageClasses()
	classInformer := classes.Informer()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 5*time.Second))

	p := &provisioner{client: client, folder: folder, claims: claims.GetIndexer(), volumes: volumes.GetIndexer()}
	p.class = func(name string) (bool, error) {
		class, err := classes.Lister().Get(name)
		if errors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && class.Provisioner == Name, err
	}
	enqueue := func(prefix string) cache.ResourceEventHandlerFuncs {
		add := func(object any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
				queue.Add(prefix + key)
			}
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }}
	}
	if _, err := claims.AddEventHandler(enqueue("claim:")); err != nil {
		return err
	}
	if _, err := volumes.AddEventHandler(enqueue("volume:")); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), claims.HasSynced, volumes.HasSynced, classInformer.HasSynced) {
		return ctx.Err()
	}
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	for {
		key, shutdown := queue.Get()
		if shutdown {
			return nil
		}
		if err := p.sync(ctx, key); err != nil {
			klog.ErrorS(err, "will retry", "key", key)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (p *provisioner) sync(ctx context.Context, key string) error {
	var name string
	if n, err := fmt.Sscanf(key, "claim:%s", &name); n == 1 && err == nil {
		object, found, err := p.claims.GetByKey(name)
		if err != nil || !found {
			return err
		}
		return p.provision(ctx, object.(*core.PersistentVolumeClaim))
	}
	if n, err := fmt.Sscanf(key, "volume:%s", &name); n == 1 && err == nil {
		object, found, err := p.volumes.GetByKey(name)
		if err != nil || !found {
			return err
		}
		return p.reclaim(ctx, object.(*core.PersistentVolume))
	}
	return nil
}

func (p *provisioner) provision(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	if claim.Status.Phase == core.ClaimBound || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
		return nil
	}
	ours, err := p.class(*claim.Spec.StorageClassName)
	if err != nil || !ours {
		return err
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.folder, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	// hostPath volumes know no fsGroup, and a restricted pod is never root: the folder itself must let it write.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	owner, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return err
	}
	kind := core.HostPathDirectory
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": Name}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			StorageClassName:              *claim.Spec.StorageClassName,
			ClaimRef:                      owner,
			PersistentVolumeSource:        core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: path, Type: &kind}},
		},
	}, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) reclaim(ctx context.Context, volume *core.PersistentVolume) error {
	if volume.Status.Phase != core.VolumeReleased || volume.Annotations["pv.kubernetes.io/provisioned-by"] != Name ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete || volume.DeletionTimestamp != nil {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.folder, volume.Name)); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
